"""A worker of the server in this process → seconds of a request by station, and of a whole one without any wrapper."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.rpc.messages import Offer
from app.settings import PolicyFolder, Settings
from app.worker import Worker
from bench import BenchError
from bench.harness.load import request_bytes
from bench.serving.in_process import newest_compiled
from bench.stations.driver import Driver
from bench.stations.kinds import Kind, kinds
from bench.stations.stopwatch import Stopwatch, WrapperCost, replaced
from bench.stations.table import FUNCTIONS, WHAT

_WARM = 300


@dataclass
class Found:
    """µs of one kind, a sample a round. `whole`: without wrappers. `calls`: of each station's functions, a request."""

    kind: str
    whole: list[float] = field(default_factory=list)
    stations: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)

    def median(self, station: str = "") -> float:
        """Of a station, or of the whole."""
        return statistics.median(self.stations[station] if station else self.whole)

    @property
    def together(self) -> float:
        """The sum of the stations."""
        return sum(self.median(station) for station in self.stations)


async def measure(states: Mapping[str, Path], rounds: int, requests: int) -> list[Found]:
    """In each round all kinds without wrappers, and then with them, on workers of their own.

    Args:
      states: by the name of a policy, the state of a server that has compiled it.
      rounds: how many samples.
      requests: of each kind, for one sample.

    Raises:
      BenchError: a request is not answered well, or a function has gone.
    """
    found = {kind.name: Found(kind.name) for kind in kinds()}
    for _ in range(rounds):
        async with _serving(states) as port:
            for kind in kinds():
                seconds = await _asked(port, kind, Stopwatch(), requests)
                found[kind.name].whole.append(1e6 * seconds / requests)
        watch = Stopwatch()
        cost = WrapperCost.measured()
        with replaced(FUNCTIONS, watch.wrapped):
            async with _serving(states) as port:
                for kind in kinds():
                    await _asked(port, kind, watch, requests)
                    _note(found[kind.name], watch, cost, requests)
    return list(found.values())


def _note(found: Found, watch: Stopwatch, cost: WrapperCost, requests: int) -> None:
    for station in WHAT:
        if watch.seconds[station]:
            found.stations.setdefault(station, []).append(1e6 * cost.net_s(watch, station) / requests)
            found.calls[station] = watch.entered[station] / requests


async def _asked(port: int, kind: Kind, watch: Stopwatch, requests: int) -> float:
    if kind.begin is not None:
        await _begin(port, *kind.begin)
    driver = Driver(port, kind.request, watch)
    try:
        await driver.ask(_WARM)
        watch.clear()
        return await driver.ask(requests)
    finally:
        driver.close()


async def _begin(port: int, path: str, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes(path, body))
    status = await reader.readline()
    writer.close()
    if b" 201 " not in status:
        raise BenchError(f"the session was not started: {status!r}")


@contextlib.asynccontextmanager
async def _serving(states: Mapping[str, Path]) -> AsyncIterator[int]:
    """A worker as the server starts it, without the processes beside it; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    worker = Worker([listener])
    nobody: Any = None  # of what is asked here nothing reaches the control process
    worker.link = nobody
    await worker.open(Settings(tuple(PolicyFolder(name, state) for name, state in states.items())))
    for name, state in states.items():
        bundle, graph = newest_compiled(state)
        await worker.open_policy(name, Offer(bundle.folder.name, graph, bundle))
    await worker.listen()
    try:
        yield int(listener.getsockname()[1])
    finally:
        await worker.stop()
