"""A result → the picture of the run: learning curve above, swap times below."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from demo.messages import Result

_MOVING = 50  # episodes
_BLUE, _ORANGE, _GREY, _GREEN = "#1f5fa8", "#e07b26", "#8a8f98", "#2b8a4b"


def draw(result: Result, path: Path) -> None:
    """Writes the picture as PNG; made to be read at a width of about 900 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    style: dict[Any, Any] = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, (curve, swaps) = plt.subplots(2, 1, figsize=(9, 6.2), height_ratios=(2.2, 1), constrained_layout=True)
        _draw_curve(curve, result)
        _draw_swaps(swaps, result)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _draw_curve(axes: Axes, result: Result) -> None:
    """Every episode as a dot, the moving mean as a line, each swap as a tick."""
    steps = np.asarray([point.environment_steps for point in result.curve])
    returns = np.asarray([point.episode_return for point in result.curve])
    axes.scatter(steps, returns, s=7, color=_BLUE, alpha=0.18, linewidths=0)
    axes.scatter([], [], s=30, color=_BLUE, alpha=0.6, linewidths=0, label="one episode")
    if len(returns) >= _MOVING:
        mean = np.convolve(returns, np.ones(_MOVING) / _MOVING, mode="valid")
        axes.plot(steps[_MOVING - 1 :], mean, color=_BLUE, lw=2.4, label=f"mean of {_MOVING} episodes")
    published = [one.published_at_steps for one in result.figures.versions if one.published_at_steps]
    axes.vlines(
        published,
        0,
        1,
        transform=axes.get_xaxis_transform(),
        color=_GREY,
        lw=0.7,
        alpha=0.5,
        label="new weights published",
    )
    axes.axhline(195, color=_GREEN, lw=1.2, ls="--", label="return 195, what is asked")
    axes.set_ylim(0, 515)
    axes.set_xlim(0, max(steps, default=1) * 1.01)
    axes.set_ylabel("episode return")
    axes.set_xlabel("environment steps, all played through the service")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(_title(result), loc="left", fontsize=12.5, fontweight="bold")
    axes.legend(loc="lower right", framealpha=0.95, edgecolor="none", fontsize=10)


def _draw_swaps(axes: Axes, result: Result) -> None:
    """For each published version, how long until the first answer came from it."""
    seen = [one for one in result.figures.versions if one.swap_ms is not None]
    places = np.arange(len(seen))
    axes.bar(places, [one.swap_ms or 0.0 for one in seen], color=_ORANGE, width=0.72)
    median = result.figures.median_swap_ms
    if median is not None:
        axes.axhline(median, color=_GREY, lw=1.2, ls="--")
        axes.set_title(
            f"From publication to the first answer: median {median:.0f} ms",
            loc="left",
            fontsize=12.5,
            fontweight="bold",
        )
    every = max(1, len(seen) // 8)
    axes.set_xticks(places[::every], [f"{one.train_step:,}" for one in seen[::every]])
    axes.set_xlim(-0.6, len(seen) - 0.4)
    axes.set_xlabel("version (train step)")
    axes.set_ylabel("swap time (ms)")


def _title(result: Result) -> str:
    figures = result.figures
    episodes = sum(len(evaluation.returns) for evaluation in result.evaluations)
    return (
        f"CartPole-v1 learned through the service: {figures.requests:,} requests, "
        f"{figures.failures} failed\n"
        f"{figures.swaps} swaps; last {len(result.evaluations)} versions: mean return "
        f"{result.evaluated_mean_return:.0f} over {episodes} episodes"
    )
