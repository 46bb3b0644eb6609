"""A rate and a kind of simulators → the largest number of them that a server of its own keeps up with."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import BenchError
from bench.frames.search import largest
from bench.frames.simulators import Frames, Simulators
from bench.harness.server import Server, serving
from bench.serving import usage
from bench.serving.exports import READY, SWAPPED, Exports
from bench.serving.prewritten import Prewritten
from bench.swaps.checkpoints import Checkpoints

_OBSERVATIONS, _FLOATS = 64, 4
_LESS, _MOST_RETRIES = 0.95, 8
_WARM_S, _WARM = 1.0, 8
# Rounding: how much of a number of simulators is left between the last two tries.
_EXACT = 0.03


@dataclass(frozen=True)
class Plan:
    """How long a try takes, how long what was found is tried in the end, and how often weights are swapped: seconds.

    `first`: how many simulators are tried first; `most`: at all.
    """

    probe_s: float
    final_s: float
    every_s: float
    first: int
    most: int


@dataclass(frozen=True)
class Case:
    """Simulators that send frames at `hz`, each a vector of so many `rows`; 1: one environment, not batched."""

    hz: float
    rows: int


@dataclass(frozen=True)
class Probe:
    """One try. `cores`: of the server's processes; `published`: swaps, of which `swaps` were seen in answers."""

    frames: Frames
    cores: float
    published: int
    swaps: int


@dataclass
class Found:
    """All tries of a case; the last one is that of `simulators`, 0 where not even one could be stepped in time."""

    case: Case
    simulators: int = 0
    probes: list[Probe] = field(default_factory=list)

    @property
    def environments(self) -> int:
        """Rows of all simulators together."""
        return self.simulators * self.case.rows

    @property
    def environments_per_core(self) -> float:
        """By the cores that the server used, one at least: a worker that could do more is not taken to do it."""
        return self.environments / max(1.0, self.probes[-1].cores) if self.simulators else 0.0


@dataclass
class Search:
    """Tries numbers of simulators on a server that runs."""

    server: Server
    simulators: Simulators
    checkpoints: Checkpoints
    plan: Plan
    progress: Callable[[str], None]

    def run(self, case: Case, first: int) -> Found:
        """Searches from `first` on, and tries what it has found for longer: less of them, if that is not held."""
        found = Found(case)
        self.simulators.run(self.server.port, _WARM, case.hz, _WARM_S)

        def holds(count: int) -> bool:
            found.probes.append(self._probe(case, count, self.plan.probe_s))
            return found.probes[-1].frames.holds

        number = largest(holds, first, self.plan.most, _EXACT)
        for _ in range(_MOST_RETRIES):
            if not number:
                break
            found.probes.append(self._probe(case, number, self.plan.final_s))
            if found.probes[-1].frames.holds:
                found.simulators = number
                break
            number = int(number * _LESS)
        return found

    def _probe(self, case: Case, count: int, seconds: float) -> Probe:
        self.checkpoints.prune()
        pids = usage.family(self.server.pid)
        published: list[str] = []
        used = usage.cpu_s(pids)
        began = time.monotonic()

        def publish() -> None:
            nonlocal used, began
            used, began = usage.cpu_s(pids), time.monotonic()
            for number in range(int(seconds / self.plan.every_s)):
                time.sleep(max(0, began + (number + 0.5) * self.plan.every_s - time.monotonic()))
                published.append(self.checkpoints.publish()[0])

        frames = self.simulators.run(self.server.port, count, case.hz, seconds, publish)
        cores = (usage.cpu_s(pids) - used) / (time.monotonic() - began)
        if published:
            self.server.wait_for(self.server.policy, published[-1])
        words = "in time" if frames.holds else f"{frames.late} late, {frames.failures} failed"
        self.progress(f"{case.hz:g} Hz, {case.rows} rows: {count} simulators, {frames.frames} frames: {words}")
        return Probe(frames, cores, len(published), len(set(published) & set(frames.versions)))


@dataclass(frozen=True)
class Bench:
    """Files go to `folder`, the compiled simulators are `program`, and a line about each step goes to `progress`."""

    plan: Plan
    exports: Exports
    program: Path
    folder: Path
    progress: Callable[[str], None]

    def measure(self, case: Case, first: int) -> Found:
        """On a server of its own, whose search begins with `first` simulators.

        Raises:
          BenchError: the server does not start, or takes no such session.
        """
        name = f"{case.hz:g}-{case.rows}"
        policy = self.exports.copied(SWAPPED, self.folder / name)
        prewritten = Prewritten(self.exports.folder / SWAPPED / READY)
        checkpoints = Checkpoints(prewritten, policy, self.folder / f"{name}-ready")
        checkpoints.prepare(prewritten.count)
        options = ["--engine", "litert", "--workers", "1"]
        with serving({SWAPPED: policy}, self.folder / f"{name}.log", options) as server:
            simulators = Simulators(self.program, self._observations(name, case), f"/v1/policies/{SWAPPED}/sessions")
            return Search(server, simulators, checkpoints, self.plan, self.progress).run(case, first)

    def _observations(self, name: str, case: Case) -> Path:
        if case.rows < 1 or case.hz <= 0:
            raise BenchError(f"--hz and --rows have to be positive: {case}")
        numbers = random.Random(0)

        def row() -> list[float]:
            return [round(numbers.uniform(-1, 1), 4) for _ in range(_FLOATS)]

        lines = [row() if case.rows == 1 else [row() for _ in range(case.rows)] for _ in range(_OBSERVATIONS)]
        file = self.folder / f"{name}.observations"
        file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        return file
