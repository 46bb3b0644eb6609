"""What was found → a table to read, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.frames.run import Found, Probe
from bench.harness.machine import warning_after

_WIDE = 150  # columns where the output is no terminal


def as_json(found: Sequence[Found], on: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """All figures, those of every try too."""
    return {
        "machine": on,
        "options": options,
        "found": [
            {
                "hz": one.case.hz,
                "rows": one.case.rows,
                "simulators": one.simulators,
                "environments": one.environments,
                "environments_per_core": one.environments_per_core,
                "probes": [dataclasses.asdict(probe) for probe in one.probes],
            }
            for one in found
        ],
    }


def show(found: Sequence[Found], on: dict[str, Any]) -> None:
    """Prints the table, and what is to be known of it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(title=f"99.9 % of the frames answered in time: {on['processor']}, {on['cores']} cores")
    for name in (
        "Hz",
        "rows",
        "simulators",
        "environments",
        "a core",
        "frames",
        "late",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
    ):
        table.add_column(name, justify="right")
    for name in ("max ms", "swaps", "server's cores", "simulators' cores"):
        table.add_column(name, justify="right")
    for one in found:
        numbers = (one.simulators, one.environments, round(one.environments_per_core))
        table.add_row(f"{one.case.hz:g}", str(one.case.rows), *(f"{number:,}" for number in numbers), *_cells(one))
    console.print(table)
    for line in _remarks(found, on):
        console.print(line, markup=False, highlight=False)


def _cells(found: Found) -> list[str]:
    if not found.probes:
        return []
    probe = found.probes[-1]
    frames = probe.frames
    times = (frames.p50_ms, frames.p99_ms, frames.p99_9_ms, frames.max_ms)
    cores = (probe.cores, frames.cpu_s / frames.seconds)
    return [
        f"{frames.frames:,}",
        str(frames.late),
        *("never" if time < 0 else f"{time:.2f}" for time in times),
        str(probe.swaps),
        *(f"{one:.2f}" for one in cores),
    ]


def _remarks(found: Sequence[Found], on: dict[str, Any]) -> list[str]:
    lines = [
        "Simulators have a session each and send a frame when it is due, answered or not; latency counts from then. "
        "`a core`: environments by the cores that the server used, one at least."
    ]
    lines += [_missed(one, probe) for one in found for probe in one.probes[-1:] if probe.swaps < probe.published]
    return [*lines, *filter(None, [warning_after(on)])]


def _missed(found: Found, probe: Probe) -> str:
    case = found.case
    return f"! {case.hz:g} Hz, {case.rows} rows: {probe.published - probe.swaps} swaps answered nothing before the end"
