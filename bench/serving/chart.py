"""Results → a picture: answers a second by the echo's, scenario by scenario."""

from __future__ import annotations

from pathlib import Path

from bench.serving.results import Results, Row
from bench.serving.scenarios import SCENARIOS, Kind

_COLOURS = {"litert": "#1b7f5c", "tensorflow": "#e08a1e", "naive": "#b23a48", "in-process": "#7a6fb0"}
_OTHERS = "#8a8f98"
_BAR, _GAP = 0.8, 0.7


def bars(results: Results) -> list[tuple[str, list[tuple[Row, float]]]]:
    """Title of a scenario → who takes part beside the echo, with its ratio; scenarios without an echo have none."""
    found = []
    for scenario in SCENARIOS:
        echo = results.row(scenario.name, Kind.ECHO)
        rows = [row for row in results.rows if row.scenario == scenario.name and row.samples and row is not echo]
        ratios = [(row, ratio) for row in rows if (ratio := row.ratio(echo, "rate")) is not None]
        if ratios:
            found.append((scenario.title, ratios))
    return found


def draw(results: Results, file: Path) -> None:
    """Writes `file`; its ending says whether as PNG or SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    groups = bars(results)
    rows = sum(len(group) for _, group in groups)
    figure, axes = pyplot.subplots(figsize=(9, 0.26 * rows + 0.4 * len(groups) + 1), layout="constrained")
    place, ticks, names = 0.0, [], []
    for title, group in groups:
        axes.text(0, place, title, va="center", weight="bold", fontsize=9)
        for row, ratio in group:
            place += 1
            colour = next((shown for word, shown in _COLOURS.items() if row.competitor.startswith(word)), _OTHERS)
            axes.barh(place, ratio, _BAR, color=colour)
            axes.text(ratio + 0.005, place, f"{ratio:.2f}", va="center", fontsize=8)
            ticks.append(place)
            names.append(row.competitor)
        place += 1 + _GAP
    axes.set_yticks(ticks, names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="#444444", linewidth=0.8, linestyle="--")
    axes.set_xlabel("answers a second by those of the bare echo")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(file, dpi=150)
