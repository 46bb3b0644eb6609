"""Figures of a bench, each with what it has to be: measured one by one, printed as a table, written as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.harness.command import options_as_json
from bench.harness.machine import measuring


@dataclass
class Found:
    """A figure, and what it has to be."""

    what: str
    measured: float
    bound: str = ""
    reached: bool | None = None


def report(
    name: str, options: argparse.Namespace, measured: Callable[[argparse.Namespace, Path], Iterator[Found]]
) -> int:
    """Prints what `measured` yields, with a folder for its files, and writes it where `--json` says; returns 0."""
    with measuring(name) as (on, folder):
        found = list(measured(options, folder))
    _show(found)
    if options.json:
        figures = {"machine": on, "options": options_as_json(options), "found": [asdict(one) for one in found]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _show(found: list[Found]) -> None:
    table = Table("what", "measured", "bound", "reached")
    for one in found:
        reached = "" if one.reached is None else "yes" if one.reached else "no"
        table.add_row(one.what, f"{one.measured:,.4g}", one.bound, reached)
    Console().print(table)
