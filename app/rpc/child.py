"""Processes that are started, watched, and started again when they end by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import site
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from app import tasks
from app.errors import LinkLost
from app.rpc.link import Handlers, Link

log = logging.getLogger("policy_server.processes")

# A process that lived this long did not die of how it starts.
_SETTLED_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
# What a process whose link is closed may take to end; then it is killed.
_PATIENCE_S = 5.0
_STALLED_S = 30.0
# So often is a process that has yet to answer looked at before it counts as stalled. Counted, and not only timed: when
# all processes were stopped together and go on, none is killed.
_LOOKS = 4
# Where the package `app` lies.
_ROOT = str(Path(__file__).parents[2])


class Child:
    """A process of this server, running the module `module`, and the link to it.

    It is given the number of its end of the link, and of each socket in `sockets`, as arguments, before `arguments`.
    """

    def __init__(self, process: Process, link: Link, stalled_s: float) -> None:
        self.process = process
        self.link = link
        self.stalled_s = stalled_s
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        module: str,
        arguments: Sequence[str],
        handlers: Handlers,
        sockets: Sequence[socket.socket] = (),
        stalled_s: float = _STALLED_S,
    ) -> Child:
        """Starts the process; it reads no input, and ends when its link does."""
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = [end.fileno() for end in (theirs, *sockets)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory is the user's, and may hold an `app` of its own
                "-m",
                module,
                *map(str, numbers),
                *arguments,
                pass_fds=numbers,
                env=_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the one that starts them
            )
        return cls(process, await Link.over(ours, handlers), stalled_s)

    async def call(self, name: str, *args: Any) -> Any:
        """See `Link.call`. A process that gets nothing done for `stalled_s` is killed over it: it will not answer.

        What counts is time on a core, of which one that is stopped, or hangs, takes none: work may take as long as
        it needs.
        """
        asked = asyncio.ensure_future(self.link.call(name, *args))
        try:
            idle, used = 0, _ticks(self.process.pid)
            while not (await asyncio.wait({asked}, timeout=self.stalled_s / _LOOKS))[0]:
                before, used = used, _ticks(self.process.pid)
                idle = idle + 1 if before == used != -1 else 0
                if idle == _LOOKS:
                    log.error("process %d got nothing done for %g s and is killed", self.process.pid, self.stalled_s)
                    self.kill()
            return await asked
        finally:
            asked.cancel()

    def watch(self, name: str) -> None:
        """Starts to call `name` now and then: a process that is stopped ends also while nobody else asks it."""
        self._watching = asyncio.create_task(self._asked_now_and_then(name))

    async def _asked_now_and_then(self, name: str) -> None:
        with contextlib.suppress(LinkLost):
            while True:
                await asyncio.sleep(self.stalled_s / _LOOKS)
                await self.call(name)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self.process.returncode is not None

    def kill(self) -> None:
        """Ends the process at once, whatever it is at."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> str:
        """Returns how it ended, once it has: "exit status 1", "killed by SIGKILL"."""
        status = await self.process.wait()
        self._watch_no_more()
        await self.link.close()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    async def end(self, patience_s: float = _PATIENCE_S) -> None:
        """Closes its link and waits until it is gone; kills it when that takes longer than `patience_s`."""
        self._watch_no_more()
        await self.link.close()
        try:
            await asyncio.wait_for(self.process.wait(), patience_s)
        except TimeoutError:
            if patience_s >= _PATIENCE_S:
                log.warning("process %d does not end and is killed", self.process.pid)
            self.kill()
            await self.process.wait()

    def _watch_no_more(self) -> None:
        if self._watching is not None:
            self._watching.cancel()


class Keeper:
    """Keeps one child of a kind running.

    `start` starts it; `prepare` makes it useful, each time anew; `end` ends it. A child that ends by itself, or that
    `prepare` fails on, is replaced after a pause that grows while they end young; `restarted` is called each time, with
    how it ended.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Child]],
        prepare: Callable[[Child], Awaitable[None]],
        end: Callable[[Child], Awaitable[None]],
        restarted: Callable[[str], None],
    ) -> None:
        self._name = name
        self._start = start
        self._prepare = prepare
        self._end = end
        self._restarted = restarted
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the child's process; None where there is none."""
        return self._child.process.pid if self._child is not None else None

    async def start(self) -> None:
        """Starts the first child, and from then on keeps one alive.

        Raises:
          Exception: what the first child's `prepare` raised.
        """
        self._child = await self._start()
        await self._prepare(self._child)
        self._keeping = asyncio.create_task(self._keep(self._child))

    async def close(self) -> None:
        """Ends the child, whatever it is at. What is closed stays closed."""
        if self._keeping is not None:
            await tasks.end(self._keeping)
        child, self._child = self._child, None
        if child is not None:
            await self._end(child)

    async def _keep(self, child: Child) -> None:
        pause_s = 0.0
        while True:
            began = time.monotonic()
            how = await child.ended()
            log.error("%s ended (%s); it is started again", self._name, how)
            self._restarted(how)
            settled = time.monotonic() - began >= _SETTLED_S
            pause_s = 0.0 if settled else _longer(pause_s)
            child = await self._replaced(pause_s)

    async def _replaced(self, pause_s: float) -> Child:
        while True:
            await asyncio.sleep(pause_s)
            child = None
            try:
                child = self._child = await self._start()
                await self._prepare(child)
                return child
            except Exception as error:
                log.error("%s could not start: %s: %s", self._name, type(error).__name__, error)
                if child is not None:
                    await child.end()
                    self._restarted("could not start")
                pause_s = _longer(pause_s)


def _environment() -> dict[str, str]:
    """That of this process; a child finds the very packages that this one runs, installed or not."""
    folders = [] if _ROOT in (*site.getsitepackages(), site.getusersitepackages()) else [_ROOT]
    folders += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)} if folders else dict(os.environ)


def _ticks(pid: int) -> int:
    """The time on a core that a process has had, in clock ticks; -1 where the system does not report it."""
    try:
        # Behind the name, which may hold anything: fields 3 to 15 of proc(5), the last two of which are the times.
        user, system = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11:13]
    except (OSError, ValueError):
        return -1
    return int(user) + int(system)


def _longer(pause_s: float) -> float:
    return min(2 * pause_s + _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
