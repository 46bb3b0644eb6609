"""A change in a policy's folders → a scan of them. One watcher for all policies; one task for each, on the event loop.

What lies below a folder with thousands of checkpoints is not watched: it would take seconds to start, and two watches
for each. What is new in it is seen all the same.

Notifications only make it quick. Whatever becomes of them (file systems without any, none left for this user, a folder
that cannot be watched), everything is scanned every two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from watchfiles import awatch

from app.control.manager import Manager
from app.logs import about

log = logging.getLogger("policy_server.swap")

# How long changes are gathered: a checkpoint that is renamed into place is one change.
_GATHER_MS = 50
SCAN_ANYWAY_S = 2.0
# After a failure: watching is tried anew this often.
_TRY_AGAIN_S = 60.0
# Two watches for each checkpoint: 50 ms until all are there.
MOST_BELOW = 1000
Listener = Callable[[list[str] | None], None]


def _ignore(_: list[str] | None) -> None:
    pass


class FolderWatcher:
    """Reports changes in folders, with one inotify instance for all of them. Event loop only."""

    def __init__(self) -> None:
        self._folders: dict[Path, list[tuple[asyncio.Event, Listener]]] = {}
        self._above: set[Path] = set()
        self._more = asyncio.Event()
        self._reported = ""

    def add(self, folders: Iterable[Path], listener: Listener = _ignore, above: Iterable[Path] = ()) -> asyncio.Event:
        """An event that is set when something changes in one of the folders, which need not be there yet.

        `listener` is called with the paths that have changed first, and None where that is not known. `above`: folders
        in which some of them may appear; what else changes there (a log, a trainer's summaries) concerns nobody.
        """
        changed = asyncio.Event()
        for folder in folders:
            self._folders.setdefault(folder, []).append((changed, listener))
        self._above.update(above)
        self._more.set()
        return changed

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            self._more.clear()
            # One link that leads in circles is enough to watch nothing below.
            for recursive in (True, False) if self._few() else (False,):
                try:
                    await self._watch(recursive)
                    break
                except Exception as error:
                    self._report(error)
            else:
                await self._more_within(SCAN_ANYWAY_S)

    async def _watch(self, recursive: bool) -> None:
        """Returns when other folders are there than before, or it is time to try again to watch what lies below."""
        present = self._present()
        if not present:
            await self._more_within(SCAN_ANYWAY_S)
            return
        began, started = time.monotonic(), False
        changes = awatch(
            *present,
            watch_filter=None,
            step=_GATHER_MS // 2,
            debounce=_GATHER_MS,
            stop_event=self._more,
            rust_timeout=int(SCAN_ANYWAY_S * 1000),
            yield_on_timeout=True,
            recursive=recursive,
            ignore_permission_denied=True,
        )
        async with contextlib.aclosing(changes):
            async for changed in changes:
                if recursive and not started:  # what came before the watches were there
                    self._notify_all()
                started = True
                self._notify([path for _, path in changed])
                if self._present() != present or (not recursive and time.monotonic() - began > _TRY_AGAIN_S):
                    return

    def _present(self) -> dict[Path, int]:
        """The folders that are there, and their inodes: one that is deleted and made again is another one."""
        found = {}
        # The ones above first: of two names of one folder inotify reports the one that was watched last.
        for folder in sorted(self._above.union(self._folders)):
            try:
                found[folder] = folder.stat().st_ino
            except OSError:
                continue
        return found

    def _few(self) -> bool:
        """Whether what lies in the folders can be watched too."""
        count = 0
        for folder in self._above.union(self._folders):
            with contextlib.suppress(OSError):
                count += len(os.listdir(folder))
        return count <= MOST_BELOW

    def _notify(self, paths: list[str]) -> None:
        for folder, listeners in self._folders.items():
            inside = f"{folder}/"
            concerned = [path for path in paths if path.startswith(inside) or inside.startswith(f"{path}/")]
            for event, listener in listeners if concerned else ():
                listener(concerned)
                event.set()

    def _notify_all(self) -> None:
        for listeners in self._folders.values():
            for _, listener in listeners:
                listener(None)

    async def _more_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()

    def _report(self, error: Exception) -> None:
        reason = _reason(error)
        if reason != self._reported:
            log.warning("not everything can be watched, and is scanned every %g s: %s", SCAN_ANYWAY_S, reason)
            self._reported = reason


async def follow(manager: Manager, changed: asyncio.Event) -> None:
    """Keeps `manager` at the newest version until cancelled; scans when `changed` is set, and every two seconds."""
    reported = ""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SCAN_ANYWAY_S):
                await changed.wait()
        changed.clear()
        try:
            await _look_until_settled(manager)
            reported = ""
        except Exception as error:
            if reported != repr(error):
                log.exception(
                    "%s: the scan for something newer failed; it is tried again and again",
                    manager.name,
                    extra=about(manager.name),
                )
            reported = repr(error)


async def _look_until_settled(manager: Manager) -> None:
    again_in_s = await manager.catch_up()
    while again_in_s is not None:
        await asyncio.sleep(again_in_s)
        again_in_s = await manager.catch_up()


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
