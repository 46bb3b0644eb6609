"""A real redis-server for tests, where the machine has one."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
import redis

from app.testing import free_port


@contextlib.contextmanager
def redis_running() -> Iterator[str]:
    """Its URL; skips the test where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on this machine: sessions in Redis are not tested")
    port = free_port()
    process = subprocess.Popen(
        [found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_for(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 600
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
