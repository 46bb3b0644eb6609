"""What was found → a table to read, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.machine import warning_after
from bench.stations.measure import Found
from bench.stations.table import WHAT

_WIDE = 150  # columns where the output is no terminal


def as_json(found: Sequence[Found], on: dict[str, Any]) -> dict[str, Any]:
    """µs of each kind by station: medians, and the least and the most of the rounds."""
    return {
        "machine": on,
        "unit": "µs of one core for a request",
        "kinds": {
            one.kind: {
                "stations": {name: _spread(samples) for name, samples in one.stations.items()},
                "sum": round(one.together, 2),
                "whole, without wrappers": _spread(one.whole),
            }
            for one in found
        },
    }


def _spread(samples: Sequence[float]) -> list[float]:
    ascending = sorted(samples)
    return [round(value, 2) for value in (ascending[len(ascending) // 2], ascending[0], ascending[-1])]


def show(found: Sequence[Found], on: dict[str, Any]) -> None:
    """Prints the table, and what is to be known of it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(title=f"µs of one core for a request, medians: {on['processor']}, {on['cores']} cores")
    table.add_column("station")
    for one in found:
        table.add_column(one.kind, justify="right")
    table.add_column("what it is")
    for station, what in WHAT.items():
        cells = [f"{one.median(station):.2f}" if station in one.stations else "" for one in found]
        table.add_row(station, *cells, what)
    table.add_section()
    table.add_row("sum", *(f"{one.together:.2f}" for one in found), "")
    table.add_row("whole", *(f"{one.median():.2f}" for one in found), "the same without wrappers")
    console.print(table)
    for line in filter(None, [warning_after(on)]):
        console.print(line, markup=False, highlight=False)
