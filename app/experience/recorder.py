"""The recorder process: `python -m app.experience.recorder LINK LEVEL FORM FOLDER`, started by the control process.

It follows the journals of all workers, appends rows to the row logs, and answers the workers' questions for rows over
a socket in FOLDER. Low priority; the only process that imports pyarrow. What it has not written when it ends is in the
journals, where the next one goes on.

Threads: one follows and appends, one makes Parquet files, one reads and encodes; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app import logs, tasks
from app.background import give_way, set_session_niceness
from app.errors import NotReady, Overloaded
from app.experience.following import Follower
from app.experience.limits import RowLogLimits
from app.experience.query import Query
from app.experience.recording import MakeFollower, Recording
from app.metrics import Metrics
from app.offload import in_executor
from app.rpc.link import Handlers, Link
from app.rpc.messages import ExperienceFigures, RecorderSettings
from app.rpc.recorder import bound_in
from saver.artifact import PolicySpec

log = logging.getLogger("policy_server.experience")

# Between two looks at the journals: while somebody asks for rows, the same after many rows, and else. A thousand rows
# at once cost a third of what they do a hundred at a time.
_SOON_S, _BUSY_S, _IDLE_S = 0.012, 0.035, 0.5
_MANY_ROWS = 100
_CLOSE_EVERY_S = 0.25
# It gives way to everything else, unless somebody has read within these seconds, or so many rows have come since its
# last look, until they are few again.
_NICE, _HURRIED = 19, 5
_READ_S = 2.0
_TOO_MANY_ROWS, _FEW_ROWS = 4096, 1024
# Each has a place in the worker that it asks, too.
MOST_WAITING = 64
_RETRY_S = 2


class Recorder:
    """Answers calls of control and of the workers. `make_follower`: makes what follows a policy's journals.

    `waiting`: how many readers wait for rows.
    """

    def __init__(self, make_follower: MakeFollower) -> None:
        self._make_follower = make_follower
        self._recordings: dict[str, Recording] = {}
        self._limits: RowLogLimits
        self._settings: RecorderSettings
        self._metrics = Metrics()
        self._loop = asyncio.get_running_loop()
        self._reading = ThreadPoolExecutor(1, "read")
        self._changed = asyncio.Event()
        self._passed = asyncio.Event()
        self.waiting = 0
        self._read_at = -_READ_S
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._follow, self._close)]

    def of_control(self) -> Handlers:
        """The calls that the control process makes."""
        return {call.__name__: call for call in (self.open, self.open_policy, self.alive, self.figures)}

    def of_workers(self) -> Handlers:
        """The calls that workers make."""
        return {"read": self.read}

    async def open(self, settings: RecorderSettings) -> None:
        """Takes the settings, and begins."""
        self._settings = settings
        self._limits = RowLogLimits(
            settings.bytes_limit, settings.segment_bytes, settings.segment_s, max(1, settings.policies)
        )
        for thread in self._threads:
            thread.start()

    async def open_policy(self, policy: str, spec: PolicySpec) -> None:
        """Records a policy from now on."""
        if policy not in self._recordings:
            folder = self._settings.folder / policy
            recording = Recording(policy, folder, spec, self._limits, self._make_follower)
            self._recordings = {**self._recordings, policy: recording}
            self._wake.set()
            self._metrics.measure_with(functools.partial(self._measure, recording))

    def _measure(self, recording: Recording) -> None:
        found = recording.figures()
        lost = (found.removed_rows, found.lost_events)
        self._metrics.experience(recording.policy).record(found.rows, lost, found.size, found.behind)

    async def alive(self) -> None:
        """Answers when the journals have been looked at once more, which a process that hangs does not do."""
        passed = self._passed
        self._wake.set()
        await passed.wait()

    async def figures(self) -> dict[str, ExperienceFigures]:
        """Returns what each policy's recording has come to."""
        return {policy: recording.figures() for policy, recording in self._recordings.items()}

    async def read(self, policy: str, query: Query) -> bytes:
        """Returns the answer to a reader: at once where there are rows, and else when some come, or its time is over.

        Raises:
          DoesNotFit: a cursor of another log.
          Overloaded: too many wait.
          NotReady: the policy is not recorded yet.
        """
        recording = self._recordings.get(policy)
        if recording is None:
            raise NotReady(f"the experience of policy {policy} cannot be read yet", 1)
        self._read_at = time.monotonic()
        while not recording.was_tried:
            await self.alive()
        ends = self._loop.time() + query.wait_ms / 1000
        place, lost = None, 0
        while True:
            changed = self._changed
            page, place = await in_executor(self._reading, recording.read, query, place)
            lost += page.lost_rows
            if not page.rows:
                self._wake.set()
            if page.rows or (page.is_end and self._loop.time() >= ends):
                page = page._replace(lost_rows=lost)
                return await in_executor(self._reading, recording.encode, query, page, place)
            if page.is_end:
                await self._waited(changed, ends)

    async def _waited(self, changed: asyncio.Event, ends: float) -> None:
        if self.waiting >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} readers wait for experience already", _RETRY_S)
        self.waiting += 1
        self._wake.set()
        try:
            await asyncio.wait_for(changed.wait(), max(0.0, ends - self._loop.time()))
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    async def run(self, link: Link, listener: socket.socket) -> None:
        """Answers until the control process is gone; what the journals have by then is taken in."""
        links: set[Link] = set()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            worker = Link(reader, writer, self.of_workers())
            links.add(worker)
            await worker.lost()
            links.discard(worker)

        server = await asyncio.start_unix_server(greet, sock=listener)
        flushing = asyncio.create_task(self._metrics.flush_now_and_then())
        await link.lost()
        server.close()
        await asyncio.to_thread(self.stop)
        await tasks.end(flushing)

    def stop(self) -> None:
        """Ends the threads, once what the journals have is taken in."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._reading.shutdown()
        for recording in self._recordings.values():
            recording.close()

    def _follow(self) -> None:
        now = rows = 0
        while not self._stopped.is_set():
            self._wake.clear()
            is_read = self.waiting > 0 or time.monotonic() - self._read_at < _READ_S
            wanted = niceness(rows, now, is_read)
            if wanted != now and set_session_niceness(wanted):
                now = wanted
            rows = sum(self._guarded(recording.advance) for recording in self._recordings.values())
            if rows:
                self._loop.call_soon_threadsafe(self._release)
            self._loop.call_soon_threadsafe(self._pass)
            self._stopped.wait(_SOON_S if rows < _MANY_ROWS else _BUSY_S)
            if not self.waiting and not self._stopped.is_set():
                self._wake.wait(_IDLE_S)
        for recording in self._recordings.values():
            self._guarded(recording.advance)

    def _close(self) -> None:
        while not self._stopped.wait(_CLOSE_EVERY_S):
            for recording in self._recordings.values():
                while self._guarded(recording.close_next) and not self._stopped.is_set():
                    pass

    def _guarded(self, call: Callable[[], int]) -> int:
        """Calls; what is a bug of ours ends the process: the next one goes on where this one was."""
        try:
            return call()
        except Exception:
            log.exception("the recorder ends")
            logs.flush()
            os._exit(1)

    def _release(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _pass(self) -> None:
        passed, self._passed = self._passed, asyncio.Event()
        passed.set()


def niceness(rows: int, before: int, is_read: bool) -> int:
    """Returns how nice the process is to be. `rows`: of the last look; `before`: how nice it is."""
    if is_read or rows >= _TOO_MANY_ROWS:
        return _HURRIED
    return _NICE if rows < _FEW_ROWS else before or _NICE


async def serve(link: int, folder: Path) -> None:
    """Serves the link with the given number, until its other end is gone."""
    recorder = Recorder(Follower)
    with bound_in(folder) as listener:
        over = await Link.over(socket.socket(fileno=link), recorder.of_control())
        await recorder.run(over, listener)
    logs.flush()
    os._exit(0)  # whatever a thread is busy with is found again by the next one


def main() -> None:
    """Runs until the control process is gone."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the control process says when to stop
    link, level, form, folder = sys.argv[1:]
    give_way()
    logs.configure(level, form, process="recorder")
    asyncio.run(serve(int(link), Path(folder)))


if __name__ == "__main__":
    main()
