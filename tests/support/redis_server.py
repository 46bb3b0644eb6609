"""A real redis-server for tests, where the machine has one."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import redis

from tests.support.ports import port_below_outgoing


class RedisServer:
    """A redis-server on one port, which can be stopped, started again, suspended, emptied and filled.

    What it holds is in its memory alone. Skips the test where there is none.
    """

    def __init__(self, port: int = 0) -> None:
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("no redis-server on this machine: what servers share in Redis is not tested")
        self.port = port or port_below_outgoing()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._words = [found, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers; it is empty."""
        self._process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while True:
            try:
                self.ask("PING")
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, f"redis-server has ended: {self._process.returncode}"
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def stop(self) -> None:
        """Ends it, suspended or not."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `suspend`."""
        self._signal(signal.SIGCONT)

    def empty(self) -> None:
        """Deletes everything."""
        self.ask("FLUSHALL")

    def fill(self) -> None:
        """Has it refuse every write that needs memory."""
        self.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.ask("CONFIG", "SET", "maxmemory", "1")

    def drain(self) -> None:
        """Ends `fill`."""
        self.ask("CONFIG", "SET", "maxmemory", "0")

    def ask(self, *words: str) -> object:
        """One command on a connection of its own."""
        with contextlib.closing(redis.Redis.from_url(self.url)) as client:
            return client.execute_command(*words)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def running_redis(port: int = 0) -> Iterator[RedisServer]:
    """One that runs within the block; see `RedisServer`."""
    server = RedisServer(port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def redis_running() -> Iterator[str]:
    """Its URL; skips the test where there is none."""
    with running_redis() as server:
        yield server.url
