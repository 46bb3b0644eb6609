"""Episodes of two arms, drawn and decided on as a server would: after every batch of episodes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from app.returns import Moments, Returns
from app.traffic.decision import Action, Rule, decide

Floats: TypeAlias = np.ndarray[Any, Any]
# (generator, how many, their true mean) → returns.
Draw: TypeAlias = Callable[[np.random.Generator, int, float], Floats]

MEAN = 300.0
SHARE = 0.1
BATCH = 25


def gaussian(generator: np.random.Generator, count: int, mean: float) -> Floats:
    """Normal, with half of the mean as its standard deviation."""
    return generator.normal(mean, mean / 2, count)


def exponential(generator: np.random.Generator, count: int, mean: float) -> Floats:
    """Skewed: many short episodes, few long ones."""
    return generator.exponential(mean, count)


def bounded(generator: np.random.Generator, count: int, mean: float) -> Floats:
    """From 0 to 500 as in CartPole: many at either end."""
    return 500 * generator.beta(0.8 * mean / 500, 0.8 * (1 - mean / 500), count)


def jackpot(generator: np.random.Generator, count: int, mean: float) -> Floats:
    """One episode in fifty has all the return."""
    return np.where(generator.random(count) < 0.02, 50 * mean, 0.0)


@dataclass
class Outcomes:
    """How runs ended, and after how many episodes of the canary those did that were stopped."""

    stopped: int = 0
    promoted: int = 0
    undecided: int = 0
    stopped_after: list[int] = field(default_factory=list)


def simulate(
    draw: Draw, factor: float, rule: Rule, runs: int, episodes: int = 26_000, share: float = SHARE
) -> Outcomes:
    """Runs canaries whose true mean is the active version's times `factor`, each with a seed of its own."""
    found = Outcomes()
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        in_canary = generator.random(episodes) < share
        returns = np.where(in_canary, draw(generator, episodes, MEAN * factor), draw(generator, episodes, MEAN))
        arms = zip(looks(returns, ~in_canary), looks(returns, in_canary), strict=True)
        for active, canary in arms:
            decision = decide(active, canary, rule)
            if decision is not None:
                break
        if decision is None:
            found.undecided += 1
        elif decision.action is Action.STOP:
            found.stopped += 1
            found.stopped_after.append(canary.count)
        else:
            found.promoted += 1
    return found


def looks(returns: Floats, chosen: Floats) -> list[Returns]:
    """What is known of one arm after each batch of all episodes."""
    ends = np.arange(BATCH, len(returns) + 1, BATCH) - 1
    shift = returns.mean()
    apart = np.where(chosen, returns - shift, 0.0)
    counts = np.cumsum(chosen)[ends]
    sums, squares = np.cumsum(apart)[ends], np.cumsum(apart * apart)[ends]
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    m2s = np.maximum(squares - counts * means * means, 0.0)
    lists = (array.tolist() for array in (counts, means + shift, m2s))
    return [Returns(one := Moments(*values), one) for values in zip(*lists, strict=True)]


def welch_false_stops(draw: Draw, runs: int, episodes: int = 26_000) -> int:
    """Counts runs of an equal canary that Welch's test at 95 % would stop at some look, for comparison."""
    stopped = 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        in_canary = generator.random(episodes) < SHARE
        returns = draw(generator, episodes, MEAN)
        for active, canary in zip(looks(returns, ~in_canary), looks(returns, in_canary), strict=True):
            if min(active.count, canary.count) >= 30:
                error = (active.stderr**2 + canary.stderr**2) ** 0.5
                if active.mean - canary.mean > 1.645 * error:
                    stopped += 1
                    break
    return stopped
