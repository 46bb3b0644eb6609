"""A server's port → pages of its console: streams that are read as fast as they come, and thrown away."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator

from bench import BenchError

_REQUEST = b"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_TIMEOUT_S = 10
# A server goes on for two seconds after the last page: whoever is next is to be measured without.
_LINGER_S = 2.5


@contextlib.contextmanager
def open_on(port: int, count: int) -> Iterator[None]:
    """So many are open, and have the whole state, while the block runs.

    Raises:
      BenchError: one is not answered.
    """
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(_opened(port)) for _ in range(count)]
        reading = threading.Thread(target=_read, args=(pages,), daemon=True)
        reading.start()
        try:
            yield
        finally:
            for page in pages:
                with contextlib.suppress(OSError):  # the server has ended it
                    page.shutdown(socket.SHUT_RDWR)
            reading.join()
    time.sleep(_LINGER_S)


@contextlib.contextmanager
def _opened(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as page:
        page.sendall(_REQUEST)
        received = b""
        while b"event: state" not in received:
            try:
                piece = page.recv(1 << 16)
            except TimeoutError:
                piece = b""
            if not piece:
                raise BenchError(f"a page of the console gets {received[:200]!r}")
            received += piece
        yield page


def _read(pages: list[socket.socket]) -> None:
    with selectors.DefaultSelector() as open_ones:
        for number, page in enumerate(pages):
            open_ones.register(page, selectors.EVENT_READ, number)
        while open_ones.get_map():
            for key, _ in open_ones.select():
                if not _received(pages[key.data]):
                    open_ones.unregister(key.fileobj)


def _received(page: socket.socket) -> bytes:
    # A page that is shut down while the server sends gets a reset instead of an end.
    try:
        return page.recv(1 << 20)
    except ConnectionResetError:
        return b""
