"""TCP proxies that a test can cut, and that say when certain bytes pass: the moments of a protocol, from outside."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.ports import port_below_outgoing

_PIECE_BYTES = 1 << 16


@dataclass
class Moment:
    """When `count` pieces with `pattern` have come from the client, or from the server: `act`, and no more than once.

    `after`: when the last of them has been sent on; it is not sent on before `act` has returned otherwise.
    `lost`: the last of them, and all that follows it on this connection, is never sent on.
    """

    pattern: bytes
    act: Callable[[], object]
    count: int = 1
    after: bool = False
    lost: bool = False
    from_server: bool = False
    seen: int = 0

    @property
    def over(self) -> bool:
        return self.seen >= self.count

    def comes_with(self, piece: bytes, from_server: bool) -> bool:
        """Whether it is now."""
        if self.over or from_server is not self.from_server or self.pattern not in piece:
            return False
        self.seen += 1
        return self.over


class Relay:
    """A proxy before one port of this machine. Its methods may be called in any thread.

    `hides`: what the server is not to read of its clients.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target: int, port: int) -> None:
        self.port = port
        self.hides = b""
        self._loop = loop
        self._target = target
        self._passes = asyncio.Event()
        self._passes.set()
        self._moments: list[Moment] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        """Listens."""
        self._call(self._listen())

    def cut(self, silently: bool = False) -> None:
        """Resets every connection and refuses new ones; silently: all stay open, and nothing gets through."""
        self._call(self._cut(silently))

    def mend(self) -> None:
        """Ends `cut`."""
        self._call(self._mend())

    def at(self, moment: Moment) -> Moment:
        """Adds a moment to look for."""
        self._moments.append(moment)
        return moment

    def forget(self) -> None:
        """Looks for no moment any more."""
        self._moments.clear()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)

    async def _cut(self, silently: bool) -> None:
        if silently:
            self._passes.clear()
            return
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def end(self) -> None:
        """Cuts it for good; in the loop."""
        await self._cut(silently=False)

    async def _mend(self) -> None:
        self._passes.set()
        if self._server is None:
            await self._listen()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._passes.wait()
            try:
                onwards, back = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                return
            self._open.add(back)
            try:
                await asyncio.gather(self._pass(reader, back, False), self._pass(onwards, writer, True))
            finally:
                self._open.discard(back)
                back.transport.abort()
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._passes.wait()
                now = [moment for moment in self._moments if moment.comes_with(piece, from_server)]
                for moment in now:
                    if not moment.after:
                        moment.act()
                if self.hides and not from_server:
                    piece = piece.replace(self.hides, b"X-" + self.hides)
                if any(moment.lost for moment in now):
                    await asyncio.Event().wait()
                writer.write(piece)
                await writer.drain()
                for moment in now:
                    if moment.after:
                        moment.act()
        # Both ways end together, as for a process that is gone.
        writer.transport.abort() if from_server else writer.close()


class Relays:
    """The event loop of all relays of a test, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._relays: list[Relay] = []

    @staticmethod
    @contextlib.contextmanager
    def running() -> Iterator["Relays"]:
        relays = Relays()
        relays._thread.start()
        try:
            yield relays
        finally:
            asyncio.run_coroutine_threadsafe(relays._end(), relays._loop).result(60)
            relays._loop.call_soon_threadsafe(relays._loop.stop)
            relays._thread.join()
            relays._loop.close()

    def before(self, target: int, port: int = 0) -> Relay:
        """A relay to this port, that listens."""
        relay = Relay(self._loop, target, port or port_below_outgoing())
        relay.start()
        self._relays.append(relay)
        return relay

    async def _end(self) -> None:
        for relay in self._relays:
            await relay.end()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
