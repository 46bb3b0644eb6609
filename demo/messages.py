"""What the parts of the demo pass to each other: plain values.

NumPy only: the simulators import this, and they do not import TensorFlow. Moments are seconds of
the machine's monotonic clock, which all processes share.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POLICY = "cartpole"  # the name under which the server serves it


class DemoError(Exception):
    """Something that ends the demo. Its text is the one line that the user reads."""


@dataclass(frozen=True)
class Plan:
    """How much is played and learned. One instance is the demo, one is its short form for tests.

    In a round the trainer takes `transitions_per_round` transitions, learns, and publishes.
    """

    simulators: int
    environments_per_simulator: int
    steps_per_report: int  # time steps of every environment between two reports
    transitions_per_round: int
    rounds_at_least: int
    rounds_at_most: int
    enough_return: float  # stop early when `episodes_to_stop` episodes in a row reach this mean
    episodes_to_stop: int
    evaluated_versions: int
    episodes_per_evaluated_version: int
    required_return: float | None  # None: the short form does not ask for learning
    required_swaps: int


class Transitions(NamedTuple):
    """N transitions as the server recorded them, environment by environment, each in order."""

    observation: NDArray[np.float32]  # [N, 4]
    action: NDArray[np.int64]  # [N]
    logits: NDArray[np.float32]  # [N, 2]
    reward: NDArray[np.float32]  # [N]
    next_observation: NDArray[np.float32]  # [N, 4], before any reset
    terminated: NDArray[np.bool_]  # [N], the pole fell
    truncated: NDArray[np.bool_]  # [N], the time limit was reached
    last: NDArray[np.bool_]  # [N], the last one of its environment
    train_step: NDArray[np.int64]  # [N], of the weights that answered


@dataclass(frozen=True)
class Episode:
    """One finished episode, its return, and the train step of the weights that ended it."""

    episode_return: float
    train_step: int


@dataclass(frozen=True)
class Sighting:
    """The first answer of a version that one simulator saw, and its moment."""

    version: str
    train_step: int
    at: float


@dataclass(frozen=True)
class Report:
    """Everything that happened in a simulator since its last report."""

    simulator: int
    episodes: tuple[Episode, ...]
    sightings: tuple[Sighting, ...]
    answers: dict[str, int]  # answered requests by version
    rows: int
    environment_steps: int  # rows whose action an environment did: all but those that ended an episode
    followed: int  # rows whose next observation was answered too: those that the server has recorded
    failures: tuple[str, ...]  # one line for each request that was not answered with 200


@dataclass(frozen=True)
class Publication:
    """A checkpoint that the trainer made, and the moment that it was complete."""

    name: str
    train_step: int
    at: float


@dataclass(frozen=True)
class Evaluation:
    """The episodes that one pinned version played to be evaluated."""

    version: str
    train_step: int
    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return sum(self.returns) / len(self.returns)


@dataclass(frozen=True)
class VersionFigures:
    """What is known of one version that served during play. Times in seconds since the start of play."""

    version: str
    train_step: int
    published_at_s: float | None  # None: the weights of the export itself
    published_at_steps: int | None  # environment steps reported when it was published
    swap_ms: float | None  # from publication to the first answer in a simulator; None: not seen
    answers: int
    episodes: int  # that ended under it
    mean_return: float | None  # of those episodes; None when there are none


@dataclass(frozen=True)
class Figures:
    """Everything that was counted up to now."""

    seconds: float  # of play, up to now or to its end
    now_serving: str  # the version of the newest train step that was answered with
    requests: int
    rows: int
    environment_steps: int
    answers_per_second: float  # over the last few seconds; after play, over all of it
    failures: int
    first_failures: tuple[str, ...]
    episodes: int
    recent_return: float | None  # mean of the newest finished episodes
    swaps: int  # published versions that answered during play
    last_swap_ms: float | None
    median_swap_ms: float | None
    versions: tuple[VersionFigures, ...]  # by train step
    followed: int  # rows whose next observation was answered too


@dataclass(frozen=True)
class Recorded:
    """What came of the rows that the simulators caused, once they had ended."""

    caused: int
    read: int
    double: int
    missing: int
    unused: int  # transitions that nothing was learned from: newer ones were there

    @property
    def is_whole(self) -> bool:
        """Whether every row was read, and none twice."""
        return self.read == self.caused and not self.double and not self.missing


@dataclass(frozen=True)
class EpisodePoint:
    """One finished episode on the learning curve."""

    environment_steps: int  # of all simulators together, when it was reported
    episode_return: float
    train_step: int


@dataclass(frozen=True)
class Result:
    """What the demo ends with; `result.json` is this."""

    succeeded: bool
    reasons: tuple[str, ...]  # why not; empty when it succeeded
    wall_seconds: float
    seed: int
    figures: Figures
    recorded: Recorded
    evaluations: tuple[Evaluation, ...]
    evaluated_mean_return: float
    curve: tuple[EpisodePoint, ...]
