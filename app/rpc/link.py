"""Calls between two processes of one server, both ways over one socket.

A frame is its length (8 bytes, big-endian) and a pickle. That is safe here and nowhere else: the socket is one end
of a pair that was made before the other process was started, so that nobody else can write to it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.errors import Fault, LinkLost

log = logging.getLogger("policy_server.processes")

_LENGTH_BYTES = 8
_CALL, _RESULT, _ERROR, _CANCEL, _NOTE = range(5)
Handlers = Mapping[str, Callable[..., Awaitable[Any]]]


class Link:
    """One end, made on the event loop that uses it; `handlers` answer the other side's calls by their names."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Handlers) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def over(cls, end: socket.socket, handlers: Handlers) -> Link:
        """Makes a link over one end of a socket pair."""
        reader, writer = await asyncio.open_connection(sock=end)
        return cls(reader, writer, handlers)

    async def call(self, name: str, *args: Any) -> Any:
        """Returns what the other side's handler `name` does. A caller that is cancelled cancels the handler too.

        Raises:
          LinkLost: the other process is gone, or goes before it has answered.
          Exception: whatever the handler raised.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if self.is_lost:
                raise LinkLost(f"the process that should {name} is gone, and is started again")
            self._send(_CALL, number, (name, args))
            return await answer
        except asyncio.CancelledError:
            self._send(_CANCEL, number, None)
            raise
        finally:
            del self._waiting[number]

    def note(self, name: str, *args: Any) -> None:
        """Has the other side's handler `name` called; whatever becomes of it is not answered."""
        self._send(_NOTE, next(self._numbers), (name, args))

    @property
    def is_lost(self) -> bool:
        """Whether the other process is known to be gone."""
        return self._reading.done()

    async def lost(self) -> None:
        """Returns when the other process is gone."""
        await asyncio.wait({self._reading})

    async def close(self) -> None:
        """Ends the link; the other side sees it as lost. What it still had to answer is cancelled."""
        self._reading.cancel()
        await self.lost()

    async def _read(self) -> None:
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                self._take(*pickle.loads(await self._reader.readexactly(length)))  # noqa: S301 — see above
        except (asyncio.IncompleteReadError, OSError):
            pass  # the other process has ended
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LinkLost("the process that should answer has ended, and is started again"))
            for task in self._answering.values():
                task.cancel()
            self._writer.close()

    def _take(self, kind: int, number: int, content: Any) -> None:
        if kind in (_CALL, _NOTE):
            task = asyncio.create_task(self._answer(number, *content) if kind == _CALL else self._heed(*content))
            self._answering[number] = task
            task.add_done_callback(lambda _: self._answering.pop(number, None))
        elif kind == _CANCEL:
            if number in self._answering:
                self._answering[number].cancel()
        elif (answer := self._waiting.get(number)) is not None and not answer.done():
            if kind == _RESULT:
                answer.set_result(content)
            else:
                answer.set_exception(content)

    async def _answer(self, number: int, name: str, args: tuple[Any, ...]) -> None:
        try:
            self._send(_RESULT, number, await self._handlers[name](*args))
        except Exception as error:
            self._send(_ERROR, number, error)

    async def _heed(self, name: str, args: tuple[Any, ...]) -> None:
        try:
            await self._handlers[name](*args)
        except Exception:
            log.exception("a note to %s", name)

    def _send(self, kind: int, number: int, content: Any) -> None:
        if self._writer.is_closing():
            return  # the other side is gone, and `call` raises LinkLost
        frame = _pickled(kind, number, content)
        self._writer.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)


def _pickled(kind: int, number: int, content: Any) -> bytes:
    try:
        frame = pickle.dumps((kind, number, content))
        if kind == _ERROR:
            pickle.loads(frame)  # noqa: S301 — some exceptions can be written and not read
        return frame
    except Exception:
        if kind != _ERROR:
            raise
        log.exception("an error that cannot be sent to another process", exc_info=content)
        return pickle.dumps((kind, number, Fault(f"{type(content).__name__}: {content}")))
