"""The versions that a worker tries beside the active one of a policy, and what each of them has come to.

Event loop only. Which session belongs to which arm is decided once, when it begins, and kept in its record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from app.batching.compute import Outcomes
from app.batching.failures import why_failed
from app.batching.rule import Job
from app.engine.base import Engine
from app.errors import EngineFailed, VersionNotLoaded
from app.metrics import FINE_LATENCY_S
from app.returns import Returns
from app.rpc.messages import Arm, ArmFigures, TrafficFigures, TrafficPlan
from app.traffic.assignment import ACTIVE, CANARY, arm_of
from app.traffic.shadow import Shadow, with_own_engine
from app.traffic.sums import LENGTH, RETURN
from app.versions.active import LoadedVersions
from app.versions.lease import LoadedVersion
from app.wire.tensors import Array


class ArmCounts:
    """What one arm has come to since it was asked the last time."""

    def __init__(self) -> None:
        self.sessions = self.failures = 0
        self.failure = ""
        # Answers by how long they took: those within the first of `FINE_LATENCY_S`, the second, … and beyond the last.
        self.seconds = [0] * (1 + len(FINE_LATENCY_S))
        self._returns = Returns()

    def failed(self, reason: str) -> None:
        """Counts a request that the version could not answer."""
        self.failures += 1
        self.failure = self.failure or reason

    def ended(self, episodes: Array) -> None:
        """Counts episodes: [episodes, 2] returns and lengths, see `app.traffic.sums`."""
        self._returns = self._returns.joined(Returns.of(episodes[:, RETURN], episodes[:, LENGTH]))

    def taken(self) -> ArmFigures:
        """Returns what was counted."""
        seconds = {bucket: count for bucket, count in enumerate(self.seconds) if count}
        answers = sum(seconds.values())
        return ArmFigures(self.sessions, self._returns, answers, self.failures, self.failure, seconds)


class Arms:
    """The arms of one policy. `canary`, `shadow`: None where there is none; `share`: of the sessions, the canary's.

    `shadow_of`: makes what asks a shadow.
    """

    def __init__(self, versions: LoadedVersions, shadow_of: Callable[[Arm], Shadow] = with_own_engine) -> None:
        self.canary: LoadedVersion[Engine] | None = None
        self.shadow: LoadedVersion[Engine] | None = None
        self.share = 0.0
        self._asked_beside: Shadow | None = None
        self._versions, self._shadow_of = versions, shadow_of
        self._counts = {ACTIVE: ArmCounts(), CANARY: ArmCounts()}

    async def follow(self, plan: TrafficPlan) -> None:
        """Loads the versions of a plan, has them take part, and ends the trial of others.

        Raises:
          SwapRefused: this process cannot load one; what took part before still does.
        """
        loaded = [await self._versions.try_beside(arm.name, arm.graph, arm.bundle) for arm in plan.arms]
        await self._ask_beside(plan.shadow)
        of_digest = {one.version.digest: one for one in loaded}
        before = self.canary
        self.canary = of_digest[plan.canary.bundle.digest] if plan.canary is not None else None
        self.shadow = of_digest[plan.shadow.bundle.digest] if plan.shadow is not None else None
        self.share = plan.canary.share if plan.canary is not None else 0.0
        if self.canary is not before:
            self._counts = {ACTIVE: ArmCounts(), CANARY: ArmCounts()}
        self._versions.try_only(of_digest)

    async def _ask_beside(self, arm: Arm | None) -> None:
        """Has a shadow asked, which has an engine of its own, or none."""
        before = self._asked_beside
        if before is not None and arm is not None and before.digest == arm.bundle.digest:
            before.share = arm.share
            return
        new = None if arm is None else self._shadow_of(arm)
        if new is not None:
            await new.open()
        self._asked_beside = new
        if before is not None:
            before.close()

    def close(self) -> None:
        """Asks no shadow any more."""
        if self._asked_beside is not None:
            self._asked_beside.close()
            self._asked_beside = None

    def for_new(self, session: str) -> LoadedVersion[Engine] | None:
        """Returns the version of a session that begins, where that is the canary."""
        canary = self.canary
        if canary is not None and arm_of(session, canary.version.digest, self.share) == CANARY:
            return canary
        return None

    def of(self, digest: str) -> LoadedVersion[Engine] | None:
        """Returns the canary, where that is the version of this digest; None where it has gone."""
        return self.canary if self.canary is not None and self.canary.version.digest == digest else None

    def asked(self, name: str) -> LoadedVersion[Engine]:
        """Returns the version that a request asks for: `canary`, or by its name.

        Raises:
          VersionNotLoaded: it is not loaded here; says which are.
        """
        loaded = self._versions.all
        if name == CANARY and self.canary is not None:
            return self.canary
        for one in loaded:
            if one.version.name == name:
                return one
        there = ", ".join(dict.fromkeys(one.version.name for one in loaded))
        which = f"the canary is {self.canary.version.name}" if self.canary is not None else "there is no canary"
        raise VersionNotLoaded(f"version {name!r} is not loaded; there are: {there}; {which}")

    def delivers(
        self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], outcomes: Outcomes, now: float, waits: bool
    ) -> None:
        """See `Traffic`. What a canary could not answer is a failure of it where the active version could."""
        arm = CANARY if loaded is self.canary else ACTIVE
        if arm == ACTIVE and loaded is not self._versions.active:
            return  # of a session that keeps another one, or a shadow's
        if self._asked_beside is not None and arm == ACTIVE:
            self._asked_beside.offer(loaded, jobs, outcomes, now, waits)
        seconds, asked_at, bucket = self._counts[arm].seconds, -1.0, 0
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                if arm == CANARY and isinstance(outcome, EngineFailed):
                    self.failed(str(outcome))
            elif not job.waiter.done():
                if job.asked_at != asked_at:  # many of a batch came in the same turn
                    asked_at = job.asked_at
                    bucket = bisect_left(FINE_LATENCY_S, now - asked_at)
                seconds[bucket] += job.requests
                if job.failed and not why_failed(outcome):
                    self.failed(job.failed)

    def failed(self, reason: str) -> None:
        """Counts a request that the canary could not answer, and the active version could."""
        self._counts[CANARY].failed(reason)

    def begun(self, arm: str) -> None:
        """Counts a session of this arm."""
        self._counts[arm].sessions += 1

    def ended(self, arm: str, episodes: Array) -> None:
        """Counts episodes of this arm: see `ArmCounts.ended`."""
        if len(episodes):
            self._counts[arm].ended(episodes)

    def take_figures(self) -> TrafficFigures:
        """Returns what was counted since the last call."""
        taken, self._counts = self._counts, {ACTIVE: ArmCounts(), CANARY: ArmCounts()}
        shadow = None if self._asked_beside is None else self._asked_beside.take_figures()
        return TrafficFigures({name: counts.taken() for name, counts in taken.items()}, shadow)
