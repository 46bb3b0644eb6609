"""The recorder process as a worker calls it: over a socket of its own, so that rows do not pass through control."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.errors import LinkLost, NotReady
from app.rpc.link import Link

_NAME = "recorder"
_GONE = "the process that keeps experience is being started again"


@contextlib.contextmanager
def bound_in(folder: Path) -> Iterator[socket.socket]:
    """Binds the recorder's socket in a folder that only this user can open: see `app.rpc.link`."""
    with _short(folder) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        (folder / _NAME).unlink(missing_ok=True)
        listener.bind(path)
        listener.listen()
        yield listener


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the socket that is short enough for one, however long that of the folder is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)


class RemoteRecorder:
    """The recorder whose socket lies in `folder`, whichever process it is. Event loop only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._stops = asyncio.Event()

    async def read(self, policy: str, query: Any) -> bytes:
        """See `Recorder.read`.

        Raises:
          NotReady: it is being started again, or this server stops.
        """
        reading = asyncio.create_task(self._read(policy, query))
        stopping = asyncio.create_task(self._stops.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise NotReady("the server stops")
            return reading.result()
        finally:
            reading.cancel()
            stopping.cancel()

    async def close(self) -> None:
        """Gives up what waits."""
        self._stops.set()
        if self._link is not None:
            await self._link.close()

    async def _read(self, policy: str, query: Any) -> bytes:
        link = await self._connected()
        try:
            answer: bytes = await link.call("read", policy, query)
        except LinkLost:
            raise NotReady(_GONE, 1) from None
        return answer

    async def _connected(self) -> Link:
        async with self._connecting:
            if self._link is None or self._link.is_lost:
                end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    with _short(self._folder) as path:
                        end.connect(path)  # at once, or not at all
                except OSError:
                    end.close()
                    raise NotReady(_GONE, 1) from None
                end.setblocking(False)
                self._link = await Link.over(end, {})
            return self._link
