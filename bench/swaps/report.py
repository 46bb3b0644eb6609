"""What was measured → two tables to read, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.machine import warning_after
from bench.swaps.first_answer import FirstAnswers
from bench.swaps.under_load import UnderLoad

_STAGES = ("loaded", "verified", "active", "drained")
_FIGURES = ("p50_ms", "p99_ms", "p99_9_ms", "max_ms")
_WIDE = 150  # columns where the output is no terminal


@dataclass(frozen=True)
class Subject:
    """What was measured: the policy's size, and the server's processes."""

    size: str
    megabytes: float
    workers: int


@dataclass
class Results:
    """Everything of one run."""

    first_answers: list[tuple[Subject, FirstAnswers]] = field(default_factory=list)
    under_load: list[tuple[Subject, UnderLoad]] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return sum(one.failures for _, one in self.first_answers) + sum(one.failures for _, one in self.under_load)

    @property
    def missed(self) -> int:
        """Swaps during the load that no answer showed."""
        return sum(one.published - one.swaps for _, found in self.under_load for one in found.rounds)


def as_json(results: Results, on: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """All figures, those of every swap and every phase too."""
    return {
        "machine": on,
        "options": options,
        "first_answer": [
            dataclasses.asdict(subject)
            | dataclasses.asdict(found)
            | {name: getattr(found, name) for name in ("median_ms", "p90_ms", "max_ms")}
            for subject, found in results.first_answers
        ],
        "under_load": [_load_as_json(subject, found) for subject, found in results.under_load],
        "failures": results.failures,
        "missed_swaps": results.missed,
    }


def _load_as_json(subject: Subject, found: UnderLoad) -> dict[str, Any]:
    return dataclasses.asdict(subject) | {
        "maximum": dataclasses.asdict(found.maximum),
        "rate": found.rate,
        "without": {figure: found.median(False, figure) for figure in _FIGURES},
        "with": {figure: found.median(True, figure) for figure in _FIGURES},
        "p99_ratio": found.p99_ratio,
        "p99_ratios": [one.p99_ratio for one in found.rounds],
        "requests": sum(phase.requests for phase in found.phases),
        "failures": found.failures,
        "published": sum(one.published for one in found.rounds),
        "swaps": sum(one.swaps for one in found.rounds),
        "reached": found.reached,
        "rounds": [
            {
                "without": dataclasses.asdict(one.without),
                "with": dataclasses.asdict(one.during),
                "published": one.published,
                "swaps": one.swaps,
            }
            for one in found.rounds
        ],
    }


def show(results: Results, on: dict[str, Any]) -> None:
    """Prints the tables, and what is to be known of them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    if results.first_answers:
        console.print(_first_answers(results.first_answers))
    if results.under_load:
        console.print(_under_load(results.under_load))
    for line in _remarks(results, on):
        console.print(line, markup=False, highlight=False)


def _first_answers(rows: Sequence[tuple[Subject, FirstAnswers]]) -> Table:
    table = _table(
        "From publication to the first answer, in ms (right: the server's own log, medians)",
        ("policy", "MB", "workers", "way"),
        ("swaps", "median", "p90", "max", *_STAGES, "failures"),
    )
    for subject, found in rows:
        stages = [f"{found.stages_ms[stage]:.1f}" if stage in found.stages_ms else "" for stage in _STAGES]
        times = [f"{value:.1f}" for value in (found.median_ms, found.p90_ms, found.max_ms)]
        swaps = str(len(found.latencies_ms))
        table.add_row(*_named(subject), found.way, swaps, *times, *stages, str(found.failures))
    return table


def _under_load(rows: Sequence[tuple[Subject, UnderLoad]]) -> Table:
    table = _table(
        "Latency at half of the largest load, in ms (medians of the rounds; max: of all)",
        ("policy", "MB", "workers", "swaps"),
        ("largest/s", "rate/s", "requests", "failures", "p50", "p99", "p99.9", "max", "p99 ratio"),
    )
    for subject, found in rows:
        ratios = [one.p99_ratio for one in found.rounds]
        ratio = f"{found.p99_ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        for during in (False, True):
            phases = [one.during if during else one.without for one in found.rounds]
            figures = [f"{found.median(during, figure):.2f}" for figure in _FIGURES[:-1]]
            table.add_row(
                *_named(subject),
                str(sum(one.swaps for one in found.rounds)) if during else "none",
                f"{found.maximum.rate:.0f}",
                f"{found.rate:.0f}{'' if all(phase.reached for phase in phases) else ' !'}",
                str(sum(phase.requests for phase in phases)),
                str(sum(phase.failures for phase in phases)),
                *figures,
                f"{max(phase.max_ms for phase in phases):.2f}",
                ratio if during else "",
            )
    return table


def _remarks(results: Results, on: dict[str, Any]) -> list[str]:
    lines = [
        f"! {subject.size}, workers {subject.workers}: the rate of {found.rate:.0f} requests a second was not held; "
        f"answered were {min(phase.rate for phase in found.phases):.0f} at the least. These latencies say little."
        for subject, found in results.under_load
        if not found.reached
    ]
    if results.missed:
        lines.append(f"! {results.missed} published checkpoints answered nothing before their phase had ended")
    lines += filter(None, [warning_after(on)])
    return [*lines, f"{results.failures} failures"]


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _named(subject: Subject) -> tuple[str, str, str]:
    return subject.size, f"{subject.megabytes:.2f}", str(subject.workers)
