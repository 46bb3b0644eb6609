"""Scans of a policy's folder from the event loop: what lies there is recorded in the history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from concurrent.futures import Executor

from app.artifacts.names import EXPORT
from app.control.history import History
from app.control.reexport import ExportFolder
from app.control.source import Scan, Source
from app.errors import SwapRefused
from app.offload import in_executor

# A checkpoint without checkpoint.json counts as whole when nothing in it is younger than this.
REST_S = 0.25


class Scanner:
    """One policy's checkpoints, and its export. Event loop only; one scan at a time, the caller sees to that."""

    def __init__(self, source: Source, export: ExportFolder, history: History, executor: Executor) -> None:
        self._source = source
        self._export = export
        self._history = history
        self._executor = executor
        self._changed = asyncio.Event()

    def changed(self, paths: Iterable[str] | None) -> None:
        """Has the next scan read what these paths belong to; None: everything."""
        self._source.changed(paths)
        self._changed.set()

    async def scan(self, afresh: bool = False, only: Collection[str] | None = None) -> Scan:
        """Scans the checkpoints: see `Source.scan`.

        Raises:
          SwapRefused: the folder cannot be listed for now.
        """
        self._changed.clear()
        try:
            scan = await in_executor(self._executor, self._source.scan, REST_S, afresh, only)
        except OSError as error:
            raise SwapRefused(f"the checkpoints cannot be looked for now: {error.strerror}", for_now=True) from error
        fresh = self._export.fresh
        self._history.observe(scan, {(EXPORT, fresh.digest)} if fresh is not None else set())
        return scan

    async def scan_export(self, afresh: bool = False) -> bool:
        """Returns whether an export is just being saved over the one that serves.

        `afresh` drops what was found against it before.
        """
        try:
            still_changing = await self._export.scan(REST_S, afresh)
        except SwapRefused as refusal:
            self._history.refuse(self._history.version(EXPORT, "", -1), str(refusal))
            return False
        if not still_changing and not self._export.reason:
            self._history.mended(EXPORT)
        if self._export.fresh is not None:
            self._history.version(EXPORT, self._export.fresh.digest, self._export.fresh.train_step)
        return still_changing

    async def scan_for(self, name: str | None, afresh: bool) -> tuple[Scan, bool]:
        """Scans for a reload of the checkpoint `name`, or of the newest version.

        Returns:
          The scan, and whether what is wanted is still being written.
        """
        only = None if afresh else {name} if name is not None else set()
        scan = await self.scan(afresh, only)
        if name is not None:
            return scan, name in scan.still_changing
        return scan, await self.scan_export(afresh) or bool(scan.still_changing)

    async def changed_or_rested(self) -> None:
        """Returns when something has changed, or may have come to rest since."""
        with contextlib.suppress(TimeoutError):
            # Nothing reports that a file is no longer written: half of the rest that it needs is the time to compare.
            async with asyncio.timeout(REST_S / 2):
                await self._changed.wait()
