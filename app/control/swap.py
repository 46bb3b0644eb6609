"""The change from one version to the next: prepared by the builder, made ready on every worker, switched, drained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.records import VersionRecord
from app.control.history import History
from app.control.states import State, Version
from app.control.workers import Workers
from app.errors import FleetLost, SwapRefused, is_passing
from app.fleet.commit import CommitProtocol
from app.logs import about
from app.metrics import PolicyMetrics

log = logging.getLogger("policy_server.swap")

# Requests are held for milliseconds, while the servers of a fleet commit a version; where one of them dies just then,
# no longer than this.
HOLD_S = 2.0


class Swapper:
    """Changes of one policy's active version, one at a time: the caller sees to that.

    Attributes:
      holds: whether requests wait on all workers until the fleet has committed a version, or has not.
      lost: why not all servers of the fleet are known to serve what was committed; None where they are, or once it
        was said to whoever wanted it.
    """

    def __init__(self, policy: str, history: History, metrics: PolicyMetrics) -> None:
        self.workers = Workers()
        self.protocol = CommitProtocol()
        self._policy = policy
        self._history = history
        self._metrics = metrics
        self.holds = False
        self.lost: FleetLost | None = None
        self._held_at = 0.0
        self._draining: set[asyncio.Task[None]] = set()
        self._active: tuple[Version, Graph, Bundle] | None = None
        self._next: tuple[Version, Graph, Bundle] | None = None

    @property
    def serves(self) -> bool:
        """True once a version serves."""
        return self._active is not None

    @property
    def active(self) -> Version:
        """The version that serves."""
        return self.offer()[0]

    @contextlib.contextmanager
    def under(self, protocol: CommitProtocol) -> Iterator[None]:
        """Within, swaps are agreed on by another protocol than this server's own."""
        before, self.protocol = self.protocol, protocol
        try:
            yield
        finally:
            self.protocol = before

    def offer(self) -> tuple[Version, Graph, Bundle]:
        """Returns what a worker has to load to serve the active version."""
        assert self._active is not None, "nothing serves before the first version was found"
        return self._active

    def wanted(self) -> tuple[Version, Graph, Bundle]:
        """Returns what a worker has to run to be admitted: the active version, or the one that the others switch to.

        While a version is only made ready, that is the active one: a worker admitted then is made ready too.
        """
        return self._next or self.offer()

    async def to(
        self, version: Version, graph: Graph, prepare: Callable[[], Awaitable[Prepared]], stamp: object = None
    ) -> None:
        """Takes a version from found to loaded, verified and active, or refused. `stamp`: of the files it came from.

        Raises:
          SwapRefused: it may not serve; nothing has changed.
        """
        if self._active is not None and self._active[0] is version:
            return
        await self.protocol.begin()
        await self.drained()  # it may be this very version that still drains
        version.want()
        with self._refusing(version, stamp):
            bundle = await self._verified(version, prepare)
            record = VersionRecord(version.name, version.digest, bundle.train_step, graph.digest)
            await self.protocol.announce(record)  # the others load it while the workers here do
            ready = await self.workers.prepare(graph, bundle)
            if not self.protocol.alone:
                await self._commit(record)
        # It counts by now. With no wait since then, so that who is admitted later loads it.
        self._next, self.holds = (version, graph, bundle), False
        try:
            if not self.protocol.alone:
                ready = await self.workers.prepare_others(graph, bundle, ready)
            await self.workers.activate(*version.key, ready)
            self._switched(version, graph, bundle)
        finally:
            self._next = None
        if not self.protocol.alone:
            self._metrics.held(time.perf_counter() - self._held_at)
        try:
            await self.protocol.switched()
        except FleetLost as error:
            self.lost = error  # it serves here all the same, and has to be recorded

    async def verify(
        self, version: Version, prepare: Callable[[], Awaitable[Prepared]], stamp: object = None
    ) -> Bundle:
        """Takes a version from found to loaded and verified, or refused, to be tried beside the active one.

        Raises:
          SwapRefused: it may not serve.
        """
        await self.drained()  # as in `to`
        version.find()
        with self._refusing(version, stamp):
            return await self._verified(version, prepare)

    async def _verified(self, version: Version, prepare: Callable[[], Awaitable[Prepared]]) -> Bundle:
        prepared = await prepare()
        bundle = prepared.bundle
        version.move(State.LOADED, at=prepared.loaded_at)
        version.train_step, version.engine = bundle.train_step, bundle.engine
        version.move(State.VERIFIED)
        self._log_dependent_rows(bundle)
        self._log_probes(version, bundle)
        return bundle

    @contextlib.contextmanager
    def _refusing(self, version: Version, stamp: object) -> Iterator[None]:
        """Within, a version that may not serve is refused. `stamp`: of the files it came from."""
        try:
            yield
        except SwapRefused as refusal:
            # What is refused for now is tried again, whatever its files look like.
            for_now = refusal.for_now or is_passing(refusal)
            self._history.refuse(version, str(refusal), object() if for_now else stamp)
            raise SwapRefused(f"checkpoint {version.name} is refused: {refusal}", for_now) from None

    async def _commit(self, record: VersionRecord) -> None:
        """Returns when all servers have agreed to serve a version, with every worker's requests held."""
        await self.protocol.prepared(record)
        self._held_at, self.holds = time.perf_counter(), True
        await self.workers.hold(HOLD_S)
        try:
            await self.protocol.held()
        except BaseException:
            self.holds = False
            await self.workers.release()
            raise

    def _log_dependent_rows(self, bundle: Bundle) -> None:
        before = self._active[2].dependent_rows if self._active is not None else ""
        if bundle.dependent_rows and bundle.dependent_rows != before:
            log.warning(
                "%s: two requests do not share a call: %s",
                self._policy,
                bundle.dependent_rows,
                extra=about(self._policy),
            )

    def _log_probes(self, version: Version, bundle: Bundle) -> None:
        if problems := bundle.probed.get("problems"):
            answered = f"answers {bundle.probed['answered']} of {bundle.probed['asked']} probe inputs"
            log.warning(
                "%s: %s %s; %s",
                self._policy,
                version.name,
                answered,
                "; ".join(problems),
                extra=about(self._policy, version.name),
            )

    async def drained(self) -> None:
        """Returns when no batch runs on older weights than the active ones."""
        while self._draining:
            await asyncio.wait(self._draining)

    def _switched(self, version: Version, graph: Graph, bundle: Bundle) -> None:
        old, self._active = self._active, (version, graph, bundle)
        version.move(State.ACTIVE)
        self._metrics.active(version.train_step, bundle.engine)
        if old is None:
            return
        old[0].move(State.DRAINING)
        self._metrics.swapped(sum(version.stages().values()))
        task = asyncio.create_task(self._drain(old[0], version))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self, version: Version, successor: Version) -> None:
        await self.workers.drained()
        version.move(State.RELEASED)
        stages = successor.stages()
        drained_s = version.times["released"] - version.times["draining"]
        for stage, seconds in (stages | {"drained": drained_s}).items():
            self._metrics.stage(stage, seconds)
        log.info(
            "%s: %s (train step %d) serves: %s; %s before it drained in %.1f ms",
            self._policy,
            successor.name,
            successor.train_step,
            ", ".join(f"{stage} in {seconds * 1000:.1f} ms" for stage, seconds in stages.items()),
            version.name,
            drained_s * 1000,
            extra=about(self._policy, successor.name),
        )
