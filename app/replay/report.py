"""What a replay has found, as tables for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.replay.findings import Findings
from app.replay.totals import Totals
from app.tables import add_row, titled_table
from app.traffic.comparison import ROUNDING, Numbers

_MOST_GONE = 5
_COMPARED = ("bit-equal", "equal but for rounding", "agreement", "largest difference")


@dataclass(frozen=True)
class Report:
    """The findings of one replay, and what was asked for.

    `answers`: the version that has answered now, and its train step; None where each row was answered by the version
    that answered then. `no_divergence`: why distributions cannot be compared; "" where they can.
    """

    policy: str
    rows: int
    environments: int
    answers: tuple[str, int] | None
    tolerance: float
    no_divergence: str
    findings: Findings

    @property
    def total(self) -> Totals:
        """All versions together."""
        total = Totals()
        for totals in self.findings.by_version.values():
            total.include(totals)
        return total

    @property
    def differing(self) -> int:
        """The rows that the version that answered then answers otherwise now, by more than rounding."""
        return sum(t.compared - t.close for (_, _, same), t in self.findings.by_version.items() if same)

    def print(self, console: Console) -> None:
        """Prints it."""
        again = "by the versions that answered then"
        if self.answers is not None:
            again = f"by version {self.answers[0]} (train step {self.answers[1]})"
        console.print(f"[bold]{escape(self.policy)}[/bold]  {escape(f'recorded, and answered again {again}')}")
        for line in self._lines():
            console.print(escape(line))
        console.print()
        if self.findings.by_version:
            console.print(self._by_version())
            if self.total.differences:
                console.print(self._actions())
        for line in self._notes():
            console.print(escape(line))

    def _lines(self) -> Iterator[str]:
        total, findings = self.total, self.findings
        yield (
            f"{self.rows:,} rows of {self.environments:,} environments: {total.greedy:,} greedy or without a draw, "
            f"{total.seeded:,} seeded, {total.sampled:,} sampled without a seed"
        )
        if findings.gone:
            most = [f"{name} ({rows:,})" for name, rows in findings.gone.most_common(_MOST_GONE)]
            more = [f"and {len(findings.gone) - _MOST_GONE} more"] if len(findings.gone) > _MOST_GONE else []
            yield f"left out: {findings.gone.total():,} of versions that are gone: {', '.join(most + more)}"
        if findings.unknown_state:
            yield f"left out: {findings.unknown_state:,} of which the policy state before is not known"
        if findings.refused:
            yield f"left out: {findings.refused:,} that the policy refuses"

    def _by_version(self) -> Table:
        """A line for each; columns that would be empty are left out."""
        total = self.total
        diverged = total.divergence.count or total.divergence.infinite
        columns = [
            *("version", "train step", "rows"),
            *(_COMPARED if total.compared else ()),
            *(("mean divergence", "largest divergence") if diverged else ()),
        ]
        table = titled_table("Rows, by the version that answered then", *columns)
        for (name, train_step, same), totals in self.findings.by_version.items():
            if totals.rows:
                called = name + (" (the same)" if same and self.answers else "")
                add_row(table, called, str(train_step), *_cells(totals, bool(total.compared), bool(diverged)))
        if len(self.findings.by_version) > 1:
            table.add_section()
            add_row(table, "all", "", *_cells(total, bool(total.compared), bool(diverged)))
        return table

    def _actions(self) -> Table:
        table = titled_table("Actions", "output", "largest difference", "mean difference")
        for name, numbers in self.total.differences.items():
            add_row(table, name, *_of(numbers, numbers.largest), *_of(numbers, numbers.mean))
        return table

    def _notes(self) -> Iterator[str]:
        total = self.total
        if total.compared:
            yield (
                f"agreement: equal actions where they are discrete, within {self.tolerance:g} where continuous; "
                f"rounding: within {ROUNDING:g}, absolute and relative"
            )
        if total.sampled:
            text = f"sampled without a seed, and so not compared one by one: {total.sampled:,} rows"
            if total.log_prob.count:
                text += f"; their mean log-probability now is {total.log_prob.mean:.6g}"
            if total.log_prob_apart.count:
                text += f", at most {total.log_prob_apart.largest:.3g} from the recorded one"
            yield text
        if total.divergence.count or total.divergence.infinite:
            source = "recorded in its info" if self.findings.from_info else "that of the version that answered then"
            yield f"divergence: D(then ‖ now) in nats (Kullback-Leibler); then: {source}"
        elif self.answers is not None and self.no_divergence:
            yield f"no divergence: of the distributions, {self.no_divergence}"


def _cells(totals: Totals, compared: bool, diverged: bool) -> list[str]:
    shares = _shares(totals) if totals.compared else [""] * len(_COMPARED)
    divergence = totals.divergence
    apart = ["", ""]
    if divergence.count or divergence.infinite:
        infinite = f" and {divergence.infinite:,} infinite" if divergence.infinite else ""
        apart = [f"{divergence.mean:.4g}{infinite}", f"{divergence.largest:.4g}"]
    return [f"{totals.rows:,}", *(shares if compared else ()), *(apart if diverged else ())]


def _shares(totals: Totals) -> list[str]:
    return [
        _share(totals.equal, totals.compared),
        _share(totals.close - totals.equal, totals.compared),
        _share(totals.agree, totals.compared),
        f"{totals.largest:.4g}",
    ]


def _share(part: int, of: int) -> str:
    """A share that says 100 % only where it is all, and 0 % only where it is nothing."""
    percent = 100 * part / of
    if part in (0, of):
        return f"{percent:g} %"
    return f"{min(max(percent, 0.01), 99.99):.2f} %"


def _of(numbers: Numbers, value: float) -> list[str]:
    return [f"{value:.4g}" if not math.isnan(value) else ""] if numbers.count or numbers.infinite else [""]
