"""Figures → what one sees: a live screen in a terminal, else a line for each version."""

import sys
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.messages import Figures, Plan, Result, VersionFigures
from demo.statistics import Statistics

_REFRESH_PER_S = 5
_ROWS = 14
_BESIDE_THE_BAR = 66  # columns of the terminal that the rest of the picture takes
_NARROWEST_BAR, _WIDEST_BAR = 8, 40
_LIMIT = 500.0  # CartPole-v1 ends an episode there
_BLOCKS = " ▁▂▃▄▅▆▇█"


class Screen(Protocol):
    """What shows the progress of the demo."""

    def stage(self, text: str) -> None:
        """Shows that a new stage has started."""

    def round(self, figures: Figures, version: str) -> None:
        """Shows the figures once `version` has served."""

    def conclude(self, result: Result, plan: Plan) -> None:
        """Prints the result, after the screen is closed."""

    def __enter__(self) -> "Screen": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_screen(statistics: Statistics, plan: Plan, plain: bool) -> Screen:
    """The live screen where there is a terminal to show it."""
    if plain or not sys.stdout.isatty():
        return PlainScreen()
    return LiveScreen(statistics, plan)


class PlainScreen:
    """Lines, for logs and tests."""

    def __enter__(self) -> "PlainScreen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def stage(self, text: str) -> None:
        """One line."""
        print(f"· {text}", flush=True)

    def round(self, figures: Figures, version: str) -> None:
        """One line of figures, about the version and the run so far."""
        one = next(entry for entry in figures.versions if entry.version == version)
        print(
            f"train step {one.train_step:6d}   return {_number(figures.recent_return)}   "
            f"swap {_number(one.swap_ms)} ms   {figures.requests:6d} requests   "
            f"{figures.rows:7d} rows   {figures.answers_per_second:4.0f} answers/s   "
            f"{figures.failures} failures",
            flush=True,
        )

    def conclude(self, result: Result, plan: Plan) -> None:
        """Prints the result."""
        print(_conclusion(result, plan).plain, flush=True)


class LiveScreen:
    """A picture of the run that is drawn anew a few times a second, by rich's own thread."""

    def __init__(self, statistics: Statistics, plan: Plan) -> None:
        self._statistics = statistics
        self._plan = plan
        self._stage = ""
        self._console = Console()
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=_REFRESH_PER_S,
            redirect_stderr=False,  # it goes to a log file
        )

    def __enter__(self) -> "LiveScreen":
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def stage(self, text: str) -> None:
        """Shown in the head line."""
        self._stage = text

    def round(self, figures: Figures, version: str) -> None:
        """Nothing: the picture shows the statistics as it is."""

    def conclude(self, result: Result, plan: Plan) -> None:
        """The evaluation, below the last picture."""
        self._console.print(_conclusion(result, plan))

    def _picture(self) -> RenderableType:
        figures = self._statistics.figures()
        head = Text("CartPole-v1, learned through the service", style="bold")
        body = Table.grid(padding=(0, 3))
        width = self._console.width - _BESIDE_THE_BAR
        bar = max(_NARROWEST_BAR, min(_WIDEST_BAR, width))
        body.add_row(_versions_table(figures, bar), _facts(figures))
        return Panel(
            Group(head, Text(self._stage), Text(""), body, Text(""), _columns(figures)),
            padding=(0, 1),
        )


def _versions_table(figures: Figures, bar: int) -> Table:
    """The newest versions: return and swap time."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("train step", justify="right")
    table.add_column("mean return", width=bar + 4)
    table.add_column("swap ms", justify="right")
    shown = figures.versions[-_ROWS:]
    for one in shown:
        serving = one.version == figures.now_serving
        table.add_row(
            Text(str(one.train_step), style="bold green" if serving else ""),
            _bar(one, bar),
            _number(one.swap_ms),
        )
    for _ in range(_ROWS - len(shown)):
        table.add_row("", "", "")
    return table


def _bar(one: VersionFigures, width: int) -> Text:
    if one.mean_return is None:
        return Text("…", style="dim")
    length = max(1, round(width * one.mean_return / _LIMIT))
    return Text.assemble(("█" * length, _colour(one.mean_return)), f" {one.mean_return:.0f}")


def _colour(mean_return: float) -> str:
    if mean_return >= 195:
        return "green"
    return "yellow" if mean_return >= 60 else "red"


def _facts(figures: Figures) -> Table:
    """Names and values, one below the other."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(justify="right")
    rows = (
        ("now serving", figures.now_serving or "-"),
        ("return, last 50 episodes", _number(figures.recent_return)),
        ("episodes", f"{figures.episodes:,}"),
        ("requests", f"{figures.requests:,}"),
        ("rows answered", f"{figures.rows:,}"),
        ("answers per second", f"{figures.answers_per_second:,.0f}"),
        ("swaps during play", f"{figures.swaps}"),
        ("last swap", f"{_number(figures.last_swap_ms)} ms"),
        ("median swap", f"{_number(figures.median_swap_ms)} ms"),
        ("seconds of play", f"{figures.seconds:.0f}"),
    )
    for name, value in rows:
        facts.add_row(name, value)
    facts.add_row("failed requests", Text(str(figures.failures), _outcome_colour(not figures.failures)))
    return facts


def _outcome_colour(good: bool) -> str:
    return "bold green" if good else "bold red"


def _columns(figures: Figures) -> Text:
    """Return by version from the first to now, as small columns."""
    text = Text("return, first version to now  ", style="dim")
    for one in figures.versions:
        if one.mean_return is not None:
            level = min(8, max(1, round(8 * one.mean_return / _LIMIT)))
            text.append(_BLOCKS[level], style=_colour(one.mean_return))
    return text


def _conclusion(result: Result, plan: Plan) -> Text:
    """The result: each evaluated version, the sum of the run, and whether it succeeded."""
    figures = result.figures
    text = Text()
    for evaluation in result.evaluations:
        text.append(
            f"version {evaluation.version}: mean return {evaluation.mean:.1f} "
            f"({len(evaluation.returns)} episodes, lowest {min(evaluation.returns):.0f})\n"
        )
    demanded = "" if plan.required_return is None else f", at least {plan.required_return:.0f} asked"
    text.append(f"the last {len(result.evaluations)} versions: {result.evaluated_mean_return:.1f}{demanded}\n")
    text.append(
        f"{figures.requests:,} requests, {figures.rows:,} rows, {figures.failures} failed; "
        f"{figures.swaps} swaps during play, median {_number(figures.median_swap_ms)} ms; "
        f"{result.wall_seconds:.0f} s\n"
    )
    recorded = result.recorded
    text.append(
        f"{recorded.caused:,} rows of experience caused, {recorded.read:,} read, {recorded.double} of them twice; "
        f"{recorded.unused:,} transitions passed over for newer ones\n"
    )
    for reason in result.reasons:
        text.append(f"not as promised: {reason}\n", style="bold red")
    text.append("succeeded" if result.succeeded else "failed", _outcome_colour(result.succeeded))
    return text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
