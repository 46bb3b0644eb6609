"""A batcher over an engine that tests drive by hand."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from app.batching.batcher import Batcher
from app.batching.job_queue import BatcherParts
from app.batching.rule import Job, Result
from app.engine.fake import FakeEngine
from app.metrics import Metrics
from app.versions.lease import LoadedVersion, VersionInfo


class EchoEngine(FakeEngine):
    """Answers each row with its observation plus `number`; keeps the functions that were called."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        self.functions: list[str] = []
        self.fails_at: float | None = None
        self.state = 0.0

    def run(self, function, inputs):
        self.functions.append(function)
        outputs = super().run(function, inputs)
        observation = inputs["0/observation"]
        if self.fails_at is not None and (observation == self.fails_at).any():
            raise RuntimeError("the graph is broken")
        return {"action": observation + outputs["action"] + inputs.get("1/0", 0)}

    def initial_state(self, rows):
        return {"0": np.full(rows, self.state)}


class Harness:
    """A batcher over one version at a time, driven by hand."""

    def __init__(self, executor: ThreadPoolExecutor, queue: int, inline_s: float) -> None:
        self.engine = EchoEngine()
        self.loaded = LoadedVersion(self.engine, VersionInfo("v0", "d0", 0))
        self.leased: list[str] = []
        self.metrics = Metrics()
        self.batcher = Batcher(BatcherParts("p", self, _complete, executor, self.metrics.policy("p"), queue, inline_s))

    @property
    def active(self):
        self.leased.append(self.loaded.version.name)
        return self.loaded

    def swap(self, number: int) -> EchoEngine:
        self.engine = EchoEngine(number)
        self.loaded = LoadedVersion(self.engine, VersionInfo(f"v{number}", f"d{number}", number))
        return self.engine

    def submit(self, *values: float, function: str = "action", timeout: float = 60.0, **more: Any) -> asyncio.Future:
        job = self.job(*values, function=function, timeout=timeout, **more)
        self.batcher.submit(job)
        return job.waiter

    def submit_alone(self, *values: float, function: str = "action") -> asyncio.Future:
        job = self.job(*values, function=function)
        self.batcher.submit(job, alone=True)
        return job.waiter

    def job(self, *values: float, function: str = "action", timeout: float = 60.0, **more: Any) -> Job:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        options = {"needs_state": False, "min_train_step": None} | more
        inputs = {"0/observation": np.array(values, float)}
        return Job(function, inputs, len(values), deadline=loop.time() + timeout, waiter=done, **options)

    async def held(self) -> None:
        """Returns once the engine is inside a call."""
        await asyncio.get_running_loop().run_in_executor(None, self.engine.entered.wait, 10)


def _complete(inputs, rows, initial):
    return inputs | {"1/0": initial["0"]} if initial else inputs


@asynccontextmanager
async def open_harness(queue: int = 100, inline_s: float = 0.0) -> AsyncIterator[Harness]:
    """By default every call runs in the thread, where it can be held."""
    with ThreadPoolExecutor(1) as executor:
        harness = Harness(executor, queue, inline_s)
        try:
            yield harness
        finally:
            harness.engine.go_on.set()
            await harness.batcher.close()


async def settled() -> None:
    """Lets the event loop do all that can be done without the engine."""
    for _ in range(10):
        await asyncio.sleep(0)


def answers(result: Result) -> list[float]:
    return result.outputs["action"].tolist()


def threads_of(harness: Harness) -> list[str]:
    """Has the engine note the thread of each of its calls from now on."""
    threads: list[str] = []
    run_engine = harness.engine.run

    def noted(function, inputs):
        threads.append(threading.current_thread().name)
        return run_engine(function, inputs)

    harness.engine.run = noted
    return threads


def depend(harness: Harness) -> None:
    harness.loaded = LoadedVersion(
        harness.engine, replace(harness.loaded.version, dependent_rows="its rows share what is drawn")
    )
