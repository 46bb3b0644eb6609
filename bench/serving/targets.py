# ruff: noqa: S603
"""One turn of a competitor → a sample: who runs is loaded, and its CPU time and memory are read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.harness.load import Answers, Generator, answers
from bench.harness.server import ROOT
from bench.serving import console_pages, usage
from bench.serving.results import Sample
from bench.serving.scenarios import SWAP_EVERY_S

_WORKER = "app.worker"


@dataclass(frozen=True)
class Loaded:
    """A server under as many requests as it can answer; `pid` is the process that was started."""

    generator: Generator
    port: int
    pid: int
    clients: int

    def measure(self, seconds: float) -> Sample:
        """One turn."""
        pids = usage.family(self.pid)
        before = usage.cpu_s(pids)
        found = self.load(seconds)
        return _sample(found, usage.cpu_s(pids) - before, pids, self.swaps(found))

    def swaps(self, _: Answers) -> int:
        """How many of them reached the callers."""
        return 0

    def load(self, seconds: float) -> Answers:
        """What the callers saw."""
        return self.generator.run(self.port, seconds, self.clients)


@dataclass(frozen=True)
class Swapped(Loaded):
    """The same while `publish` publishes checkpoint after checkpoint."""

    publish: Callable[[], object]

    def swaps(self, found: Answers) -> int:
        """How many of them reached the callers."""
        return len(found.versions) - 1

    def load(self, seconds: float) -> Answers:
        """What the callers saw."""
        began = time.monotonic()
        with self.generator.running(self.port, seconds, self.clients) as process:
            for number in range(int(seconds / SWAP_EVERY_S)):
                time.sleep(max(0, began + (number + 0.5) * SWAP_EVERY_S - time.monotonic()))
                self.publish()
            return answers(process, seconds)


@dataclass(frozen=True)
class Watched(Loaded):
    """The same while so many pages of the console are open, as their streams are read."""

    pages: int

    def load(self, seconds: float) -> Answers:
        """What the callers saw."""
        with console_pages.open_on(self.port, self.pages):
            return super().load(seconds)


@dataclass(frozen=True)
class Overloaded(Loaded):
    """First as many requests as it can answer, for a fifth of the time, and then twice as many of them."""

    def measure(self, seconds: float) -> Sample:
        """The turn with too many; what is turned away is no failure."""
        maximum = self.load(seconds / 5).rate
        pids = usage.family(self.pid)
        before = usage.cpu_s(pids)
        found = self.generator.run(self.port, seconds, self.clients, rate=2 * maximum)
        sample = _sample(found, usage.cpu_s(pids) - before, pids)
        refused = found.statuses.get("429", 0)
        return dataclasses.replace(
            sample,
            failures=sample.failures - refused,
            maximum=maximum,
            refused=refused,
            refused_p50_ms=found.refused_p50_ms,
            refused_p99_ms=found.refused_p99_ms,
        )


@dataclass(frozen=True)
class InProcess:
    """The engine without a server, in a process for each turn."""

    state: Path
    rows: int

    def measure(self, seconds: float) -> Sample:
        """One turn."""
        words = [sys.executable, "-m", "bench.serving.in_process", str(self.state), str(self.rows), str(seconds)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode:
            raise BenchError(done.stderr.strip()[-500:])
        figures: dict[str, Any] = json.loads(done.stdout)
        return Sample(**figures)


def _sample(found: Answers, cpu_s: float, pids: list[int], swaps: int = 0) -> Sample:
    good = sum(count for status, count in found.statuses.items() if status.startswith("2"))
    if not good:
        raise BenchError(f"no good answer; {found.failures} failures, statuses {found.statuses}")
    workers = usage.running_module(pids, _WORKER)
    return Sample(
        rate=found.rate,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        cpu_s_per_1000=1000 * cpu_s / good,
        resident_mb=usage.resident_mb(pids),
        worker_mb=max((usage.resident_mb([pid]) for pid in workers), default=0),
        failures=found.failures,
        swaps=swaps,
    )
