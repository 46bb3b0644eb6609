"""A server's warm --state-dir → how soon after its start it answers, and what a worker holds that has no TensorFlow."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness.server import Server, serving
from bench.serving import usage
from bench.serving.calls import check_answer
from bench.serving.exports import SMALL, Exports
from bench.serving.payloads import ROW, payload
from bench.serving.results import Start


def measure(exports: Exports, folder: Path, times: int) -> list[Start]:
    """So many starts, one after the other."""
    state = folder / "state"
    shutil.copytree(exports.compiled(SMALL), state)
    found = []
    for _ in range(times):
        began = time.monotonic()
        with _server(exports, folder, state) as server:
            check_answer(server.port, server.action, payload(ROW))
            ready_s = time.monotonic() - began
            workers = usage.running_module(usage.family(server.pid), "app.worker")
            found.append(Start(ready_s, max(usage.resident_mb([pid]) for pid in workers)))
            time.sleep(1)  # what the builder does at its start is not to be in the way of the next one
    return found


@contextmanager
def _server(exports: Exports, folder: Path, state: Path) -> Iterator[Server]:
    with serving(
        exports.policies(SMALL), folder / "start.log", ["--engine", "litert", "--state-dir", str(state)]
    ) as server:
        yield server
