"""What the processes of one server send each other, beside arrays and bundles."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from app.artifacts.bundle import Bundle, Graph
from app.local_histogram import AnswerCounts
from app.rate_history import Sample
from app.returns import Returns

# A folder of checkpoints may hold thousands; so many versions are listed where nobody asks for more.
SHOWN = 100


@dataclass(frozen=True)
class Offer:
    """What a worker has to load for one policy before it can be admitted: a version and its name.

    `series`: the folder of exports that it comes from, where it comes from one.
    """

    name: str
    graph: Graph
    bundle: Bundle
    series: Path | None = None


@dataclass(frozen=True)
class Arm:
    """A version that is tried beside the active one: its name, and what a worker loads.

    `share`: of the sessions that begin for a canary, of the answers of the active version for a shadow; 0 to 1.
    """

    name: str
    graph: Graph
    bundle: Bundle
    share: float


@dataclass(frozen=True)
class ArmWish:
    """What an operator wants to try: a checkpoint, or "export", on a share; the rules are a canary's: see `Rule`."""

    checkpoint: str
    share: float
    promote_after_episodes: int | None = None
    stop_if_return_drops: float | None = None


@dataclass(frozen=True)
class TrafficWish:
    """What an operator wants to try beside the active version; None ends what is tried."""

    canary: ArmWish | None = None
    shadow: ArmWish | None = None


@dataclass(frozen=True)
class TrafficPlan:
    """The versions that a policy's workers try beside the active one."""

    canary: Arm | None = None
    shadow: Arm | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Those that there are."""
        return tuple(arm for arm in (self.canary, self.shadow) if arm is not None)


@dataclass(frozen=True)
class ArmFigures:
    """What an arm of a policy's traffic has come to.

    `sessions`: that have begun; `returns`: of the episodes that have ended. `failures`: requests that the version could
    not answer, the first for the reason `failure`. `seconds`: how many answers took how long, by their bucket of
    `app.metrics.FINE_LATENCY_S`.
    """

    sessions: int = 0
    returns: Returns = field(default_factory=Returns)
    answers: int = 0
    failures: int = 0
    failure: str = ""
    seconds: Mapping[int, int] = field(default_factory=dict)

    def joined(self, other: ArmFigures) -> ArmFigures:
        """Returns those of both, where this one came first."""
        return ArmFigures(
            self.sessions + other.sessions,
            self.returns.joined(other.returns),
            self.answers + other.answers,
            self.failures + other.failures,
            self.failure or other.failure,
            _added(self.seconds, other.seconds),
        )


@dataclass(frozen=True)
class ShadowFigures:
    """How a shadow's answers compare with those that were sent. All but the last four count rows.

    `compared`: whose actions were compared, of which `agreed` are the same; `max_difference`: the largest of any number
    of an action. `kl`: the sum of the divergences of `kl_rows`; of `kl_infinite` more it is infinite. `skipped`: that
    were not asked, so that others are answered. `answers`, `failures`, `failure`, `seconds`: see `ArmFigures`; a
    request takes as long as the call that it is part of.
    """

    compared: int = 0
    agreed: int = 0
    max_difference: float = 0.0
    kl: float = 0.0
    kl_rows: int = 0
    kl_infinite: int = 0
    skipped: int = 0
    answers: int = 0
    failures: int = 0
    failure: str = ""
    seconds: Mapping[int, int] = field(default_factory=dict)

    def joined(self, other: ShadowFigures) -> ShadowFigures:
        """Returns those of both, where this one came first."""
        return ShadowFigures(
            self.compared + other.compared,
            self.agreed + other.agreed,
            max(self.max_difference, other.max_difference),
            self.kl + other.kl,
            self.kl_rows + other.kl_rows,
            self.kl_infinite + other.kl_infinite,
            self.skipped + other.skipped,
            self.answers + other.answers,
            self.failures + other.failures,
            self.failure or other.failure,
            _added(self.seconds, other.seconds),
        )


@dataclass(frozen=True)
class TrafficFigures:
    """What a worker has seen of a policy's traffic since it was asked the last time.

    `arms`: by name, "active" and "canary". `shadow`: None where there is none.
    """

    arms: Mapping[str, ArmFigures]
    shadow: ShadowFigures | None = None


@dataclass(frozen=True)
class Swapped:
    """How a reload ended: what serves now, what served before, how long it took, and on how many servers of a fleet."""

    version: str
    train_step: int
    previous: str
    took_ms: float
    members: int = 0


@dataclass(frozen=True)
class FleetStatus:
    """What a worker knows of the fleet that its server belongs to.

    `leased_until`: when the lease ends, by `now_s`, 0 where the server does not take part; `serves_on`: it is ready
    without one, because Redis is gone for all; `reaches`: this server reaches Redis; `applied`: see `fleet.protocol`.
    """

    member: str = ""
    leased_until: float = 0.0
    serves_on: bool = False
    reaches: bool = False
    applied: Mapping[str, int] = field(default_factory=dict)

    @property
    def leased(self) -> bool:
        """True while the server takes part: no other member serves anything later."""
        return now_s() < self.leased_until

    @property
    def ready(self) -> bool:
        """True while requests should be sent here."""
        return self.leased or self.serves_on


# So many of the last calls of admin routes are kept for the console; the audit log has them all.
MOST_CALLS = 20


@dataclass(frozen=True)
class AdminCall:
    """A call of an admin route that has ended, as the console shows it: `at` is Unix time, `status` 0 for no answer."""

    at: float
    call: str
    status: int
    took_ms: float


@dataclass(frozen=True)
class Spread:
    """The open sessions: how many each policy has, and points of their steps and of the seconds since the last one.

    Points are "p50", "p90" and "max"; none where nothing is open.
    """

    policies: Mapping[str, int]
    steps: Mapping[str, float]
    idle_s: Mapping[str, float]


@dataclass(frozen=True)
class WorkerFigures:
    """What a worker has seen since it was asked the last time.

    `answers`: by policy. `sessions`: how many are open now, None where it has none. `pages`: how many are open here.
    `spread`: where that was asked, and sessions are in this process.
    """

    answers: Mapping[str, AnswerCounts]
    sessions: int | None
    pages: int
    calls: Sequence[AdminCall]
    spread: Spread | None = None


@dataclass(frozen=True)
class ConsoleUpdate:
    """The state of the server as JSON (`state`), or what has changed in it since the update before (`patch`).

    `samples`: what is new in the state's "history", which no patch changes.
    """

    number: int
    state: bytes = b""
    patch: bytes = b""
    samples: Mapping[str, Sample] = field(default_factory=dict)


@dataclass(frozen=True)
class RecorderSettings:
    """The settings that the recorder needs: see `Settings`. `policies`: how many there are."""

    folder: Path
    bytes_limit: int
    segment_bytes: int
    segment_s: int
    policies: int


class VersionReturns(NamedTuple):
    """The episodes that ended under a version: how many, and their mean return."""

    version: str
    episodes: int
    mean: float


class ExperienceFigures(NamedTuple):
    """What a policy's recording has come to since the recorder started.

    `size`: bytes on the disk; `behind`: rows that each reader has yet to read; `returns`: of the newest versions.
    """

    rows: int = 0
    size: int = 0
    removed_rows: int = 0
    lost_events: int = 0
    behind: Sequence[int] = ()
    returns: Sequence[VersionReturns] = ()


def _added(first: Mapping[int, int], second: Mapping[int, int]) -> Mapping[int, int]:
    """The sum of two counts by bucket."""
    return {bucket: first.get(bucket, 0) + second.get(bucket, 0) for bucket in sorted(first.keys() | second.keys())}


def now_s() -> float:
    """Returns seconds of a clock that all processes of a machine share, and that goes on while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
