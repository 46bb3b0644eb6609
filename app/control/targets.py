"""Targets of a swap as frozen values, and the swap to each of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from app.artifacts.bundle import Bundle, Graph, Prepared
from app.artifacts.names import EXPORT
from app.artifacts.records import Pin, VersionRecord
from app.control import pins
from app.control.history import History
from app.control.plan import Candidate, OwnWeights
from app.control.prepare import Preparing
from app.control.records import Records
from app.control.reexport import ExportFolder
from app.control.source import Scan
from app.control.states import Version
from app.control.swap import Swapper
from app.control.worker_admission import Admission
from app.errors import SwapRefused, UnknownVersion
from app.logs import about

T = TypeVar("T")
log = logging.getLogger("policy_server.swap")


@dataclass(frozen=True)
class Past:
    """A version that served before. `scan`: where its checkpoint may still lie."""

    record: VersionRecord
    scan: Scan


# A checkpoint; the export's own weights as they lie there now; those of a graph; a version that served before.
Target = Candidate | OwnWeights | Graph | Past


class TargetSwapper:
    """Swaps of one policy, one at a time: the caller sees to that."""

    def __init__(
        self,
        policy: str,
        history: History,
        export: ExportFolder,
        preparing: Preparing,
        swapper: Swapper,
        records: Records,
    ) -> None:
        self.swapper = swapper
        self.admission = Admission(swapper)
        self.preparing = preparing
        self._policy = policy
        self._history = history
        self._export = export
        self.records = records
        # What is tried beside the active version, for the fleet: see `app.fleet.protocol.Committed`.
        self.tried = ""

    async def to(self, target: Target) -> None:
        """Has the target serve.

        Raises:
          SwapRefused: it may not serve; nothing has changed.
        """
        match target:
            case Candidate():
                await self._to_checkpoint(target)
            case OwnWeights():
                await self._to_own_weights(target)
            case Graph():
                await self._to_export(target)
            case Past():
                await self._to_past(target)

    def named(self, name: str, scan: Scan) -> Candidate | Graph:
        """Returns the checkpoint of that name, or the export; raises as `Scan.named` does."""
        return self._export.graph if name == EXPORT else scan.named(name)

    async def beside(self, target: Candidate | Graph | Past) -> tuple[Version, Graph, Bundle]:
        """Verifies a target, to be tried beside the active version.

        Raises:
          SwapRefused: it may not serve, or serves already.
        """
        digest = target.record.digest if isinstance(target, Past) else target.digest
        if digest == self.swapper.active.digest:
            raise SwapRefused(f"version {self.swapper.active.name} serves already")
        if isinstance(target, Past):
            version, graph = await self._obtained(target)
            return version, graph, await self.swapper.verify(version, partial(self._prepared_again, graph, target))
        if isinstance(target, Graph):
            version = self._history.version(EXPORT, target.digest, target.train_step)
            return version, target, await self.swapper.verify(version, lambda: self.preparing.export(target))
        version = self._history.version(target.name, target.digest, target.train_step)
        graph = await self._graph_for(version, target)
        bundle = await self.swapper.verify(version, partial(self._prepared, graph, target), target.stamp)
        return version, graph, bundle

    async def resume(self, pin: Pin | None, served: str, scan: Scan) -> Pin | None:
        """Has a version serve as before a restart, where it was pinned, or is `served`; returns the pin that stays."""
        name = served if pin is None else pin.name
        if not name:
            return None
        record = self.records.named(name)
        try:
            await self.to(Past(record, scan) if record is not None else self.named(name, scan))
        except (SwapRefused, UnknownVersion) as error:
            what = f"{name} does not serve again" if pin is None else f"the pin on {name} is dropped"
            log.warning("%s: %s: %s", self._policy, what, error, extra=about(self._policy))
            return pins.after(pin, pins.Event.NOT_RESUMED)
        return pin

    async def persist(self, pin: Pin | None) -> None:
        """Saves, for a restart and for the fleet, what serves now and whether it is pinned.

        Raises:
          FleetLost: not all servers of the fleet are known to serve it, or to have the pin; here both are saved.
        """
        version, fresh = self.swapper.active, self._export.fresh
        active = VersionRecord(version.name, version.digest, version.train_step, self.swapper.offer()[1].digest)
        in_use = [*self.admission.protected(), *([fresh.digest] if fresh is not None else [])]
        if self.preparing.fetch is not None:  # other servers may ask for what sessions keep
            in_use += await self.swapper.workers.retained()
        await self.records.save(active, pin, self._export.graph.digest, self._export.saved_again, in_use)
        lost, self.swapper.lost = self.swapper.lost, None
        if lost is not None:
            raise lost
        await self.swapper.protocol.agree(tuple(self.records.served), pin, self.tried)

    async def _to_checkpoint(self, candidate: Candidate) -> None:
        version = self._history.version(candidate.name, candidate.digest, candidate.train_step)
        if self.swapper.serves and self.swapper.active is version:
            return
        graph = await self._graph_for(version, candidate)
        await self.swapper.to(version, graph, partial(self._prepared, graph, candidate), candidate.stamp)

    async def _graph_for(self, version: Version, candidate: Candidate) -> Graph:
        try:
            return await self._with_room(lambda: self.preparing.graph_for(self._export.graph, candidate))
        except SwapRefused as refusal:
            await self.swapper.drained()  # it may be this very version that still drains
            version.find()
            self._history.refuse(version, str(refusal), object() if refusal.for_now else candidate.stamp)
            raise SwapRefused(f"checkpoint {version.name} is refused: {refusal}", refusal.for_now) from None

    async def _prepared(self, graph: Graph, candidate: Candidate) -> Prepared:
        prepared = await self._with_room(lambda: self.preparing.checkpoint(graph, candidate))
        found = prepared.bundle.train_step
        if candidate.train_step not in (-1, found):  # as newer it would take turns with what is newer than it is
            raise SwapRefused(f"checkpoint.json says train step {candidate.train_step}, the weights say {found}")
        return prepared

    async def _with_room(self, make: Callable[[], Awaitable[T]]) -> T:
        """Returns what `make` makes; while there is no room, deletes versions to roll back to, the oldest first."""
        while True:
            try:
                return await make()
            except SwapRefused as refusal:
                spare = self.records.spare()
                if not refusal.no_room or spare is None or not self.swapper.serves:
                    raise
                log.warning(
                    "%s: no room: version %s, to which one could roll back, is deleted",
                    self._policy,
                    spare.name,
                    extra=about(self._policy, spare.name),
                )
                await self.records.forget(spare)

    async def _to_past(self, past: Past) -> None:
        version, graph = await self._obtained(past)
        await self.swapper.to(version, graph, partial(self._prepared_again, graph, past))

    async def _obtained(self, past: Past) -> tuple[Version, Graph]:
        record = past.record
        await self._with_room(lambda: self.preparing.obtain(record, self._export.graph))
        graph = await self.records.graph_of(record, self._export.graph)
        return self._history.version(record.name, record.digest, record.train_step), graph

    async def _prepared_again(self, graph: Graph, past: Past) -> Prepared:
        record = past.record
        if record.name == EXPORT and record.digest == graph.digest:
            return await self.preparing.export(graph)
        return await self.preparing.past(graph, record, past.scan)

    async def _to_own_weights(self, own: OwnWeights) -> None:
        """Swaps to the weights of the graph, or of the one that was saved over it, which then is the graph."""
        fresh = self._export.fresh
        if fresh is None or fresh.digest != own.digest:
            await self._to_export(self._export.graph)
            return
        try:
            await self._to_export(fresh)
        except SwapRefused as refusal:
            if not refusal.for_now:
                self._export.refuse(str(refusal))
            raise
        self._export.adopt(fresh, self._export.watched)

    async def _to_export(self, graph: Graph) -> None:
        version = self._history.version(EXPORT, graph.digest, graph.train_step)
        await self.swapper.to(version, graph, lambda: self.preparing.export(graph))
