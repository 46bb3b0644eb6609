"""Results → tables to read, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.machine import warning_after
from bench.serving.acceptance import Line
from bench.serving.results import Results, Row
from bench.serving.scenarios import SCENARIOS

_FIGURES = ("rate", "p50_ms", "p99_ms", "cpu_s_per_1000", "resident_mb", "worker_mb")
_WIDE = 150  # columns where the output is no terminal
_IDLE_CORES = 0.05
_ECHO = "echo"


def as_json(results: Results, lines: Sequence[Line], options: dict[str, Any]) -> dict[str, Any]:
    """All figures, those of every turn too."""
    return {
        "machine": results.machine,
        "options": options,
        "rows": [_row_as_json(results, row) for row in results.rows],
        "starts": [dataclasses.asdict(start) for start in results.starts],
        "acceptance": [
            {
                "number": line.number,
                "what": line.what,
                "figure": line.figure,
                "bound": f"{line.relation[0]} {line.bound:.4g}",
                "reached": line.reached,
            }
            for line in lines
        ],
        "failures": results.failures,
    }


def _row_as_json(results: Results, row: Row) -> dict[str, Any]:
    figures: dict[str, Any] = {"scenario": row.scenario, "competitor": row.competitor, "problem": row.problem}
    if row.samples:
        echo = results.row(row.scenario, _ECHO)
        figures |= {figure: row.median(figure) for figure in _FIGURES}
        figures |= {f"{figure}_by_echo": row.ratio(echo, figure) for figure in ("rate", "p50_ms", "p99_ms")}
        figures["failures"] = row.total("failures")
    return figures | {"samples": [dataclasses.asdict(sample) for sample in row.samples]}


def show(results: Results, lines: Sequence[Line]) -> None:
    """Prints the tables, and what is to be known of them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    if results.rows:
        console.print(_table(results))
    console.print(_acceptance(lines))
    for line in _remarks(results):
        console.print(line, markup=False, highlight=False)


def _table(results: Results) -> Table:
    table = Table(title="Medians of the rounds; right: by the echo's", title_justify="left")
    table.add_column("scenario")
    table.add_column("who", no_wrap=True)
    for name in ("answers/s", "p50 ms", "p99 ms", "CPU s/1,000", "MB", "worker MB", "failures", "answers/s", "p50"):
        table.add_column(name, justify="right")
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    for row in results.rows:
        title = titles.pop(row.scenario, "")
        if title:
            table.add_section()
        cells = _cells(row, results.row(row.scenario, _ECHO)) if row.samples else ["failed, see below"]
        table.add_row(title, row.competitor, *cells)
    return table


def _cells(row: Row, echo: Row | None) -> list[str]:
    rate, p50, p99, cpu, resident, worker = (row.median(figure) for figure in _FIGURES)
    ratios = [row.ratio(echo, figure) for figure in ("rate", "p50_ms")]
    return [
        f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}",
        f"{p50:.3f}" if p50 < 10 else f"{p50:.1f}",
        f"{p99:.3f}" if p99 < 10 else f"{p99:.1f}",
        f"{cpu:.3f}",
        f"{resident:.0f}",
        f"{worker:.0f}" if worker else "",
        str(row.total("failures")) + (" !" if row.problem else ""),
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
    ]


def _acceptance(lines: Sequence[Line]) -> Table:
    table = Table(title="Acceptance", title_justify="left")
    table.add_column("")
    table.add_column("what")
    for name in ("measured", "bound", "reached"):
        table.add_column(name, justify="right")
    words = {True: "yes", False: "no", None: "not measured"}
    for line in lines:
        figure = "" if line.figure is None else f"{line.figure:.4g}"
        table.add_row(line.number, line.what, figure, f"{line.relation[0]} {line.bound:.3g}", words[line.reached])
    return table


def _remarks(results: Results) -> list[str]:
    lines = [f"! {row.scenario}, {row.competitor}: {row.problem}" for row in results.rows if row.problem]
    for row in results.rows:
        if row.samples and row.total("refused"):
            p50, p99 = row.median("refused_p50_ms"), row.median("refused_p99_ms")
            lines.append(
                f"{row.scenario}, {row.competitor}: {row.median('maximum'):.1f} answers a second at most; asked for "
                f"twice as many, it gave {row.median('rate'):.1f} and turned {row.total('refused')} requests away, "
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
            )
        if row.samples and row.total("swaps"):
            lines.append(f"{row.scenario}, {row.competitor}: {row.total('swaps')} swaps seen in answers")
    idle = max((row.most("idle_cores") for row in results.rows if row.samples), default=0)
    warning = "! " if idle > _IDLE_CORES else ""
    lines.append(f"{warning}servers that waited for their turn used {idle:.2f} cores at most")
    lines += filter(None, [warning_after(results.machine)])
    return [*lines, f"{results.failures} failures"]
