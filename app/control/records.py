"""The versions that served, and the pin: what a roll-back and a restart need. Event loop only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from app.artifacts.bundle import Graph
from app.artifacts.names import EXPORT
from app.artifacts.records import Pin, VersionRecord
from app.control.state_dir import MOST_RECORDS, SavedState, StateDir
from app.control.trial import SavedTraffic
from app.offload import in_executor


class Records:
    """Records of one policy. `served`: the oldest first, the active one last; `pin`: None while the newest serves."""

    def __init__(self, state_dir: StateDir, executor: Executor) -> None:
        self._state_dir = state_dir
        self._executor = executor
        self.served: list[VersionRecord] = []
        self.pin: Pin | None = None
        self._pinned_here = True

    async def load(self, graph: Graph) -> SavedState:
        """Loads what served before a restart; returns it with the pin, which does not count before it is resumed."""
        saved_state = await in_executor(self._executor, self._state_dir.load, graph.digest, graph)
        self.served = list(saved_state.served)
        return saved_state

    async def save(
        self, active: VersionRecord, pin: Pin | None, export: str, saved_again: bool, in_use: Collection[str]
    ) -> None:
        """Saves what serves now and whether it is pinned; see `SavedState` and `StateDir.save`."""
        self.pin = pin
        if not self.served or self.served[-1] != active:
            self.served = [*self.served, active][-MOST_RECORDS:]
        saved_state = SavedState(export, tuple(self.served), pin, saved_again)
        await in_executor(self._executor, self._state_dir.save, saved_state, in_use)

    async def load_traffic(self) -> SavedTraffic:
        """Loads what was tried before a restart."""
        return await in_executor(self._executor, self._state_dir.load_traffic)

    async def save_traffic(self, traffic: SavedTraffic) -> None:
        """Saves what is tried."""
        await in_executor(self._executor, self._state_dir.save_traffic, traffic)

    def adopt(self, served: Sequence[VersionRecord], pin: Pin | None) -> None:
        """Takes over what another server of the fleet recorded: the next `save` saves it."""
        self.served = list(served)
        if pin != self.pin:
            self._pinned_here = False

    def pin_stays(self, there: bool) -> bool:
        """Returns whether the pin outlives a scan that has found its checkpoint, or has not.

        A checkpoint that was never here, because another server of the fleet has it, cannot be deleted here.
        """
        self._pinned_here = self._pinned_here or there
        return there or not self._pinned_here

    def named(self, name: str) -> VersionRecord | None:
        """Returns the version of that name that served last; None where none did."""
        return next((record for record in reversed(self.served) if record.name == name), None)

    def before(self) -> VersionRecord | None:
        """Returns what served before the active version; None where that is unknown."""
        return self.served[-2] if len(self.served) > 1 else None

    def roll_back(self) -> None:
        """Makes the version before the active one the last that served."""
        self.served = self.served[:-1]

    def replace_graph(self, digest: str) -> None:
        """Keeps of all checkpoints the one that served last, to be prepared again for the graph with this digest."""
        self.served = [replace(record, graph=digest) for record in self.served[-1:] if record.name != EXPORT]

    def spare(self) -> VersionRecord | None:
        """Returns the oldest version to roll back to whose files the active one does not need."""
        return next((record for record in self.served[:-1] if record.digest != self.served[-1].digest), None)

    async def forget(self, record: VersionRecord) -> None:
        """Deletes the files of a version, to which nobody can roll back any more."""
        self.served = [other for other in self.served if other.digest != record.digest]
        await in_executor(self._executor, self._state_dir.forget, record.digest)

    async def graph_of(self, record: VersionRecord, graph: Graph) -> Graph:
        """Returns the graph that a version served with; `graph` where that is gone."""
        if record.graph in ("", graph.digest):
            return graph
        before = await in_executor(self._executor, self._state_dir.graph, record.graph)
        return before if before is not None else graph
