"""Requests back to back on one connection → when each version first answered. Runs in a thread of its own."""

from __future__ import annotations

import re
import socket
import threading
import time
from types import TracebackType

from bench import BenchError
from bench.harness.load import request_bytes

_VERSION = re.compile(rb'"version":"([^"]*)"')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ANSWER_S = 15


class Prober:
    """Asks from when the block begins until it ends; a failure of it shows in `first_answer`.

    `pause_s`: seconds between an answer and the next request, at least; `rests`: so many times what the answer took.
    """

    def __init__(self, port: int, path: str, body: bytes, pause_s: float = 0.0, rests: float = 0.0) -> None:
        self.answers = 0
        self.failures = 0
        self._port = port
        self._pause_s = pause_s
        self._rests = rests
        self._request = request_bytes(path, body)
        self._seen: dict[str, float] = {}
        self._news = threading.Condition()
        self._stopped = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()

    def first_answer(self, version: str, at_most_s: float) -> float:
        """When the first answer of `version` was there (`time.perf_counter`); waits for it."""
        with self._news:
            self._news.wait_for(lambda: version in self._seen or self._error, at_most_s)
        if version in self._seen:
            return self._seen[version]
        raise BenchError(self._error or f"no answer of {version} within {at_most_s:g} s after its publication")

    def _run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=_ANSWER_S) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self._stopped:
                    asked = time.perf_counter()
                    connection.sendall(self._request)
                    self._note(_answer(connection))
                    if self._pause_s:
                        time.sleep(max(self._pause_s, self._rests * (time.perf_counter() - asked)))
        except (OSError, BenchError) as error:
            with self._news:
                self.failures += 1
                self._error = f"the prober's connection: {error or type(error).__name__}"
                self._news.notify_all()

    def _note(self, answer: bytes) -> None:
        now = time.perf_counter()
        self.answers += 1
        version = _VERSION.search(answer)
        if version is None or not answer.startswith(b"HTTP/1.1 200"):
            self.failures += 1
        elif (name := version[1].decode()) not in self._seen:
            with self._news:
                self._seen[name] = now
                self._news.notify_all()


def _answer(connection: socket.socket) -> bytes:
    got = b""
    while True:
        piece = connection.recv(1 << 16)
        if not piece:
            raise BenchError("closed by the server")
        got += piece
        head, end, body = got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length is None:
            raise BenchError("an answer without a Content-Length")
        if end and length and len(body) >= int(length[1]):
            return got
