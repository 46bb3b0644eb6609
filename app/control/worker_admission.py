"""Admission of workers, which load what serves before they take part in swaps, and the pause that holds for all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from app.artifacts.bundle import Bundle, Graph
from app.control.states import Version
from app.control.swap import HOLD_S, Swapper
from app.control.workers import Worker
from app.errors import SwapRefused
from app.rpc.messages import Arm, TrafficPlan

_NOTHING = TrafficPlan()


class Admission:
    """The workers of one policy as they come. Event loop only; never waits for a swap."""

    def __init__(self, swapper: Swapper) -> None:
        self._swapper = swapper
        self._protected: Counter[str] = Counter()
        self._paused: str | None = None
        self._plan = _NOTHING
        # Why a worker that started meanwhile does not try what the others do; "" where none is so.
        self.not_tried = ""

    @property
    def paused(self) -> str | None:
        """The mode of the pause that is in force; None for none."""
        return self._paused

    @contextlib.contextmanager
    def offered(self) -> Iterator[tuple[Version, Graph, Bundle]]:
        """Yields what a worker has to load before it can be admitted; within, its files stay where they are."""
        offer = self._swapper.offer()
        with self._protect(offer[2]):
            yield offer

    def protected(self) -> list[str]:
        """Returns the digests of what a worker may have to load: bundles, and also the graphs of what is tried."""
        tried = [digest for arm in self._plan.arms for digest in (arm.bundle.digest, arm.graph.digest)]
        return [*tried, *(digest for digest, count in self._protected.items() if count)]

    async def admit(self, worker: Worker, loaded: tuple[str, str]) -> None:
        """Admits a worker that has loaded the version `loaded` (name and digest): it takes part in every swap from now.

        A swap that is under way is not waited for: it may take long, and the worker could be the only one.

        Raises:
          LinkLost: it is gone already.
          SwapRefused: it cannot load what serves by now.
        """
        plan = _NOTHING
        while loaded != (wanted := self._swapper.wanted())[0].key or plan is not self._plan:
            version, graph, bundle = wanted
            if loaded != version.key:
                with self._protect(bundle):
                    await worker.prepare(graph, bundle)
                    await worker.activate(*version.key)
                loaded = version.key
            if plan is not self._plan:
                plan = self._plan
                await self._try(worker, plan)
        self._swapper.workers.admit(worker)
        if self._swapper.holds:  # or it would answer from what serves, when others have switched
            await worker.hold(HOLD_S)
        if self._paused is not None:
            await worker.pause(self._paused)

    async def traffic(self, plan: TrafficPlan) -> None:
        """Has every worker try the versions of a plan, and those that start later.

        Raises:
          SwapRefused: one of them cannot load a version; what was tried before still is.
        """
        before, self._plan, self.not_tried = self._plan, plan, ""
        try:
            # Loaded everywhere before any session belongs to it: each worker can take each step.
            await self._swapper.workers.traffic(_loading(plan, before))
            await self._swapper.workers.traffic(plan)
        except SwapRefused:
            self._plan = before
            await self._swapper.workers.traffic(before)
            raise

    async def _try(self, worker: Worker, plan: TrafficPlan) -> None:
        try:
            await worker.traffic(plan)
        except SwapRefused as refusal:
            self.not_tried = str(refusal)

    async def pause(self, mode: str) -> str | None:
        """Pauses every worker; returns what is in force when no batch runs any more."""
        self._paused = mode
        await self._swapper.workers.pause(mode)
        return self._paused

    async def resume(self) -> None:
        """Lets every worker answer again."""
        self._paused = None
        await self._swapper.workers.resume()

    @contextlib.contextmanager
    def _protect(self, bundle: Bundle) -> Iterator[None]:
        self._protected[bundle.digest] += 1
        try:
            yield
        finally:
            self._protected[bundle.digest] -= 1


def _loading(plan: TrafficPlan, before: TrafficPlan) -> TrafficPlan:
    """Returns a plan with the same versions, in which those that are new get nothing yet."""
    known = {arm.bundle.digest for arm in before.arms}

    def waiting(arm: Arm | None) -> Arm | None:
        return arm if arm is None or arm.bundle.digest in known else replace(arm, share=0.0)

    return TrafficPlan(waiting(plan.canary), waiting(plan.shadow))
