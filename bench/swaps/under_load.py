"""A server and checkpoints → latency at half of the largest load, with a swap every few seconds and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.harness.load import Answers, Generator, answers
from bench.harness.server import Server
from bench.swaps.checkpoints import Checkpoints

_PAUSE_S = 0.5


@dataclass(frozen=True)
class Plan:
    """How long, in seconds, and how many."""

    rounds: int
    phase_s: float
    every_s: float
    maximum_s: float
    connections: int

    @property
    def swaps_per_phase(self) -> int:
        """The first half a period after the beginning, the last half a period or more before the end."""
        return int(self.phase_s / self.every_s)


@dataclass(frozen=True)
class Round:
    """One phase without swaps and one with, which were `published`; `swaps` of them were seen in answers."""

    without: Answers
    during: Answers
    published: int
    swaps: int

    @property
    def p99_ratio(self) -> float:
        """With swaps by without."""
        return self.during.p99_ms / self.without.p99_ms


@dataclass(frozen=True)
class UnderLoad:
    """All rounds of one server; rates are per second."""

    maximum: Answers
    rate: float
    rounds: list[Round]

    @property
    def p99_ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(one.p99_ratio for one in self.rounds)

    @property
    def phases(self) -> list[Answers]:
        """Every phase at the rate."""
        return [phase for one in self.rounds for phase in (one.without, one.during)]

    @property
    def failures(self) -> int:
        """Requests without a good answer, those of the search for the maximum too."""
        return self.maximum.failures + sum(phase.failures for phase in self.phases)

    @property
    def reached(self) -> bool:
        """Whether the rate was held in every phase."""
        return all(phase.reached for phase in self.phases)

    def median(self, during: bool, figure: str) -> float:
        """Of all phases with swaps (`during`) or without, the median of a figure of `Answers`."""
        phases = [one.during if during else one.without for one in self.rounds]
        return float(statistics.median(getattr(phase, figure) for phase in phases))


def measure(
    server: Server, checkpoints: Checkpoints, generator: Generator, plan: Plan, progress: Callable[[str], None]
) -> UnderLoad:
    """Finds the largest load, and then does the rounds at half of it. Which phase comes first changes each round."""
    checkpoints.prepare(plan.rounds * plan.swaps_per_phase)
    progress("the largest load")
    generator.run(server.port, plan.maximum_s / 5, plan.connections)  # warms up
    maximum = generator.run(server.port, plan.maximum_s, plan.connections)
    rate = maximum.rate / 2
    rounds = []
    for number in range(plan.rounds):
        progress(f"round {number + 1} of {plan.rounds} at {rate:.0f} requests a second")
        phases = {
            with_swaps: _phase(server, checkpoints, generator, plan, rate, with_swaps)
            for with_swaps in ((False, True) if number % 2 == 0 else (True, False))
        }
        during, published = phases[True]
        rounds.append(Round(phases[False][0], during, len(published), len(published & set(during.versions))))
    return UnderLoad(maximum, rate, rounds)


def _phase(
    server: Server, checkpoints: Checkpoints, generator: Generator, plan: Plan, rate: float, with_swaps: bool
) -> tuple[Answers, set[str]]:
    """What the callers saw, and the names of what was published meanwhile."""
    time.sleep(_PAUSE_S)
    published = []
    with generator.running(server.port, plan.phase_s, plan.connections, rate) as process:
        for at in _moments(plan) if with_swaps else ():
            time.sleep(max(0, at - time.monotonic()))
            published.append(checkpoints.publish()[0])
        seen = answers(process, plan.phase_s)
    if published:
        server.wait_for(server.policy, published[-1])
        checkpoints.prune()
    return seen, set(published)


def _moments(plan: Plan) -> Iterator[float]:
    """When to publish, on the clock `time.monotonic`."""
    began = time.monotonic()
    for number in range(plan.swaps_per_phase):
        yield began + (number + 0.5) * plan.every_s
