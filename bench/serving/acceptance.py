"""Results → what was to be reached: a figure, its bound, yes or no. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.serving import payloads
from bench.serving.results import Results, Row
from bench.serving.scenarios import SCENARIOS, name_before

_Compare = Callable[[float, float], bool]
AT_LEAST: tuple[str, _Compare] = ("at least", operator.ge)
AT_MOST: tuple[str, _Compare] = ("at most", operator.le)
# A protocol may cost its own encoding.
_BY_OWN = {payloads.OIP_JSON: 0.6, payloads.OIP_BINARY: 0.7, payloads.OPENPI: 0.8}
# No change may cost more than that anywhere.
_BY_BEFORE = 0.95


@dataclass(frozen=True)
class Line:
    """One thing that was to be reached; `figure` is None where it was not measured."""

    number: str
    what: str
    figure: float | None
    bound: float
    relation: tuple[str, _Compare]

    @property
    def reached(self) -> bool | None:
        """None where it was not measured."""
        return None if self.figure is None else self.relation[1](self.figure, self.bound)


def lines(results: Results, peers: Sequence[str] = ()) -> list[Line]:
    """All of them, in the order of their numbers."""
    return [
        *_one_row(results, peers),
        *_large(results),
        *_many_callers(results),
        *_overload(results),
        *_policies(results),
        *_starts(results),
        *_protocols(results),
        *_watched(results),
        *_by_before(results),
    ]


def _one_row(results: Results, peers: Sequence[str]) -> list[Line]:
    rates = [
        Line(
            "1", "one row, 32 clients: answers/s by the echo's", _ratio(results, "one-row-32", "echo"), 0.75, AT_LEAST
        ),
        Line("1", "… by the naive server's", _ratio(results, "one-row-32", "naive"), 20, AT_LEAST),
        Line("1", "… by the raw handler's", _ratio(results, "one-row-32", "raw"), 0.35, AT_LEAST),
    ]
    found = [ratio for peer in peers if (ratio := _ratio(results, "one-row-32", peer)) is not None]
    if peers:
        rates.append(Line("1", "… by the best peer's", min(found, default=None), 8, AT_LEAST))
    echo, naive = (_ratio(results, "one-row-1", other, "p50_ms") for other in ("echo", "naive"))
    return [
        *rates,
        Line("2", "one row, 1 client: p50 by the echo's", echo, 1.6, AT_MOST),
        Line("2", "… by the naive server's", naive, 1 / 7, AT_MOST),
    ]


def _protocols(results: Results) -> list[Line]:
    own = _ours(results, "protocols-32")
    rows = [(name, results.row("protocols-32", f"litert-1-{name}"), bound) for name, bound in _BY_OWN.items()]
    by_own = [
        Line("6", f"one row, 32 clients, {name}: answers/s by the own protocol's", _by(row, own), bound, AT_LEAST)
        for name, row, bound in rows
    ]
    openpi, msgpack = (results.row("protocols-32", f"litert-1-{name}") for name in (payloads.OPENPI, payloads.MSGPACK))
    bound = _BY_OWN[payloads.OPENPI]
    return [*by_own, Line("6", "… by the own protocol's in msgpack", _by(openpi, msgpack), bound, AT_LEAST)]


def _watched(results: Results) -> list[Line]:
    """With traces, and with pages of the console open, by the same without."""
    own, many = _ours(results, "console"), results.row("console-200", "litert-200-policies")
    traced = results.row("traces", "litert-1-traced")
    lines = [
        Line(
            "7",
            "1 % of the requests traced: answers/s by those without",
            _by(traced, _ours(results, "traces")),
            0.98,
            AT_LEAST,
        )
    ]
    for pages in (1, 10):
        few = results.row("console", f"litert-1-pages-{pages}")
        lines.append(
            Line("7", f"pages of the console open, {pages}: answers/s by those without", _by(few, own), 0.99, AT_LEAST)
        )
        found = results.row("console-200", f"litert-200-pages-{pages}")
        lines.append(Line("7", f"… with 200 policies, {pages}", _by(found, many), 0.99, AT_LEAST))
    return lines


def _by(row: Row | None, own: Row | None) -> float | None:
    return row.ratio(own, "rate") if row else None


def _large(results: Results) -> list[Line]:
    images = [
        Line(
            "3",
            f"images in binary, {clients} clients: answers/s by the engine's own",
            _ratio(results, f"images-binary-{clients}", "in-process"),
            0.7,
            AT_LEAST,
        )
        for clients in (2, 4)
    ]
    return [
        Line("3", "64 rows: answers/s by the echo's", _ratio(results, "rows-64", "echo"), 0.75, AT_LEAST),
        *images,
    ]


def _many_callers(results: Results) -> list[Line]:
    row = _ours(results, "one-row-256")
    spread = row.median("p99_ms") / row.median("p50_ms") if row else None
    return [
        Line("4", "256 clients: failures", _failures(row), 0, AT_MOST),
        Line("4", "… p99 by p50", spread, 3, AT_MOST),
        Line("4", "512 clients: failures", _failures(_ours(results, "one-row-512")), 0, AT_MOST),
    ]


def _overload(results: Results) -> list[Line]:
    row = _ours(results, "overload")
    rate = row.median("rate") / row.median("maximum") if row and row.median("maximum") else None
    refused = float(row.total("refused")) if row else None
    wait = row.median("refused_p99_ms") if row else None
    return [
        Line("4", "twice too many: answers/s by the maximum", rate, 0.9, AT_LEAST),
        Line("4", "… turned away by a 429", refused, 1, AT_LEAST),
        Line("4", "… p99 of these, ms", wait, 5, AT_MOST),
        Line("4", "… other failures", _failures(row), 0, AT_MOST),
    ]


def _policies(results: Results) -> list[Line]:
    one = results.row("policies", "litert-1")
    what = "100 policies loaded, answers/s by those with one"
    found = [(name, results.row("policies", f"litert-100-{name}")) for name in ("policies", "spread")]
    words = {"policies": "one of them asked", "spread": "all asked"}
    return [
        Line("5", f"{what}: {words[name]}", row.ratio(one, "rate") if row else None, 0.9, AT_LEAST)
        for name, row in found
    ]


def _starts(results: Results) -> list[Line]:
    row = _ours(results, "one-row-32")
    held = [row.most("worker_mb")] if row else []
    held += [start.worker_mb for start in results.starts]
    took = sorted(start.ready_s for start in results.starts)
    return [
        Line("5", "a worker without TensorFlow, resident MB", max(held, default=None), 150, AT_MOST),
        Line("5", "warm start to the first answer, s", took[len(took) // 2] if took else None, 1.5, AT_MOST),
    ]


def _by_before(results: Results) -> list[Line]:
    """Each of our servers by its twin from an earlier revision, where that took part."""
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    return [
        Line(
            "",
            f"{titles[row.scenario]}: {row.competitor}, answers/s by those before",
            row.ratio(twin, "rate"),
            _BY_BEFORE,
            AT_LEAST,
        )
        for row in results.rows
        if row.samples and (twin := results.row(row.scenario, name_before(row.competitor)))
    ]


def _ours(results: Results, scenario: str) -> Row | None:
    return results.row(scenario, "litert-1")


def _ratio(results: Results, scenario: str, other: str, figure: str = "rate") -> float | None:
    row = _ours(results, scenario)
    return row.ratio(results.row(scenario, other), figure) if row else None


def _failures(row: Row | None) -> float | None:
    return float(row.total("failures")) if row else None
