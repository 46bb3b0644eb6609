"""Preparation of the bundle that the workers load: of a checkpoint, the export, or a version that served before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from app.artifacts.bundle import GRAPHS, VERSIONS, Bundle, Graph, Prepared
from app.artifacts.checkpoint_identity import manifest_of
from app.artifacts.records import VersionRecord
from app.control.plan import Candidate
from app.control.source import Scan
from app.control.state_dir import StateDir
from app.control.swap import Swapper
from app.errors import SwapRefused, UnusablePolicy
from app.offload import in_executor
from app.wire.tensors import Arrays
from saver.artifact import GRAPH_FILE, IncompleteError, check_files

OTHER_SPECS = "the new graph has other specs: a server started anew can serve it"
OTHER_EXPORT = "the export here has other specs than the one that the fleet serves"
# A kind of folder (app/artifacts/bundle.py), a digest, and where it belongs; SwapRefused where nobody gives it.
Fetch = Callable[[str, str, Path], Awaitable[None]]


class Builder(Protocol):
    """The builder as the control process uses it, for one policy."""

    async def open(self, folder: Path, graphs: Path) -> Graph:
        """Copies the graph of an export to `graphs` and reads it; UnusablePolicy where it cannot be used."""

    async def prepare(
        self,
        graph: Graph,
        source: Path | None,
        digest: str,
        destination: Path,
        recorded: Sequence[Arrays],
        serving: tuple[Graph, Bundle] | None,
    ) -> Prepared:
        """Makes a bundle of a checkpoint, or of the export's weights (None); SwapRefused where it may not serve."""

    async def check(self, graph: Graph, folder: Path) -> int:
        """Checks a checkpoint without restoring it; returns its train step; SwapRefused where it may not serve."""

    async def needs_own_graph(self, graph: Graph, folder: Path) -> bool:
        """Returns whether an export differs from the graph beyond its variables; SwapRefused where those do not fit."""


class Preparing:
    """Prepares one policy's versions. Those prepared before come from the state folder, the others from the builder."""

    def __init__(self, builder: Builder, state_dir: StateDir, swapper: Swapper, executor: Executor) -> None:
        self._builder = builder
        self._state_dir = state_dir
        self._swapper = swapper
        self._executor = executor
        # Fetches a folder of a kind from another server of the fleet: the digest and where it belongs.
        self.fetch: Fetch | None = None
        # Is called with what the builder has made.
        self.note: Callable[[Bundle], Awaitable[None]] | None = None

    async def checkpoint(self, graph: Graph, candidate: Candidate) -> Prepared:
        """Prepares a checkpoint in one of the policy's folders.

        Raises:
          SwapRefused: it may not serve.
        """
        there = await self._bundle(graph, candidate.digest)
        if there is None:
            return await self._prepare(graph, candidate.folder, candidate.digest)
        await in_executor(self._executor, _check_unchanged, candidate.folder)
        return Prepared(there)

    async def graph_for(self, graph: Graph, candidate: Candidate) -> Graph:
        """Returns the graph to serve a checkpoint with: `graph`, or its own where it is an export of other constants.

        Raises:
          SwapRefused: it may not serve.
        """
        if not await in_executor(self._executor, (candidate.folder / GRAPH_FILE).exists):
            return graph
        before = await in_executor(self._executor, self._state_dir.graph_of, candidate.digest)
        if before is not None and before.alike(graph):
            return before
        if not await self._builder.needs_own_graph(graph, candidate.folder):
            return graph
        try:
            own = await self._builder.open(candidate.folder, self._state_dir.graphs)
        except UnusablePolicy as error:
            raise SwapRefused(str(error)) from error
        if not own.alike(graph):
            raise SwapRefused(OTHER_SPECS)
        return own

    async def check(self, graph: Graph, folder: Path) -> int:
        """Checks a checkpoint that lies anywhere, without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve.
        """
        return await self._builder.check(graph, folder)

    async def obtain(self, record: VersionRecord, graph: Graph) -> None:
        """Fetches from another server of the fleet what a version runs from, where that is not here.

        Raises:
          SwapRefused: its graph is nowhere, or has other specs than `graph`.
        """
        if self.fetch is None:
            return
        state_dir, wanted = self._state_dir, record.graph or graph.digest
        if wanted != graph.digest:
            found = await in_executor(self._executor, state_dir.graph, wanted)
            if found is None:
                await self.fetch(GRAPHS, wanted, state_dir.graphs / wanted)
                found = await in_executor(self._executor, state_dir.graph, wanted)
            if found is None or not found.alike(graph):
                raise SwapRefused(OTHER_EXPORT)
        if await in_executor(self._executor, state_dir.version, record.digest) is None:
            try:
                await self.fetch(VERSIONS, record.digest, state_dir.place(record.digest))
            except SwapRefused as refusal:  # it may lie in the policy's folder, or be the export's own
                if refusal.no_room:
                    raise

    async def past(self, graph: Graph, record: VersionRecord, scan: Scan) -> Prepared:
        """Prepares a version that served before; its checkpoint may be gone.

        Raises:
          SwapRefused: so is what it ran from.
        """
        there = await self._bundle(graph, record.digest)
        if there is not None:
            return Prepared(there)
        folders = [c.folder for c in scan.complete if (c.name, c.digest) == (record.name, record.digest)]
        # The weights in a bundle for another graph or engine will do.
        folders += [folder for folder in [self._state_dir.place(record.digest)] if folder.is_dir()]
        if not folders:
            raise SwapRefused("it served before, and is gone")
        return await self._prepare(graph, folders[0], record.digest)

    async def export(self, graph: Graph) -> Prepared:
        """Prepares the export's own weights.

        Raises:
          SwapRefused: they may not serve.
        """
        there = await self._bundle(graph, graph.digest)
        return Prepared(there) if there is not None else await self._prepare(graph, None, graph.digest)

    async def _bundle(self, graph: Graph, digest: str) -> Bundle | None:
        return await in_executor(self._executor, self._state_dir.bundle, digest, graph.digest)

    async def _prepare(self, graph: Graph, source: Path | None, digest: str) -> Prepared:
        recorded = await self._swapper.workers.recorded()
        serving = self._swapper.offer()[1:] if self._swapper.serves else None
        place = self._state_dir.place(digest)
        prepared = await self._builder.prepare(graph, source, digest, place, recorded, serving)
        if self.note is not None:
            await self.note(prepared.bundle)
        return prepared


def _check_unchanged(folder: Path) -> None:
    """Whether the files of a checkpoint are still what its manifest says."""
    manifest = manifest_of(folder)
    try:
        check_files(folder, manifest.files if manifest is not None else {})
    except IncompleteError as error:
        raise SwapRefused(str(error)) from None
