"""A client in the server's own thread: a request into the socket, the loop's turns, the answer out of it; again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import perf_counter

from bench import BenchError
from bench.stations.stopwatch import Stopwatch
from bench.stations.table import QUEUE, RECEIVE, SEND

_ROOM = 1 << 16


class Driver:
    """One connection. Its own time counts nowhere, so that what is left is the server's and the kernel's."""

    def __init__(self, port: int, request: Callable[[int], bytes], watch: Stopwatch) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._number = 1
        self._writes = 0
        self.watch = watch

    def _waits(self) -> None:
        """Says what is waited for when the server's code returns to the loop: the batch, or the answer's way."""
        self.watch.station = SEND if self.watch.entered[SEND] > self._writes else QUEUE

    async def ask(self, count: int) -> float:
        """Sends so many requests, each when the one before it is answered; the seconds that they took."""
        self._left, self._took = count, 0.0
        self.watch.returns = self._waits
        self._done: asyncio.Future[float] = self._loop.create_future()
        self._send()
        return await self._done

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _send(self) -> None:
        request = self._request(self._number)
        self._number += 1
        self._loop.call_soon(self._look)
        self._writes = self.watch.entered[SEND]
        if self._socket.send(request) != len(request):
            raise BenchError("a request does not fit into the socket")
        self.watch.to(RECEIVE)
        self._since = perf_counter()

    def _look(self) -> None:
        """A turn of the loop is over."""
        self._took += perf_counter() - self._since
        self.watch.stop()
        try:
            answer = self._socket.recv(_ROOM)
        except BlockingIOError:
            self._loop.call_soon(self._look)
            self.watch.to(self.watch.station)
            self._since = perf_counter()
            return
        self._left -= 1
        if not answer.startswith(b"HTTP/1.1 20"):
            self._done.set_exception(BenchError(f"answered: {answer[:300]!r}"))
        elif self._left:
            self._send()
        else:
            self._done.set_result(self._took)
