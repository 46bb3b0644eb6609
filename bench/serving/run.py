"""Scenarios → results: those that share their servers one after the other, and in each of them everybody by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import BenchError
from bench.serving import startup_time, usage
from bench.serving.exports import SMALL, Exports
from bench.serving.launch import Launcher
from bench.serving.results import Results, Row
from bench.serving.scenarios import Kind, Scenario
from bench.serving.start_servers import Starter
from bench.serving.targets import InProcess, Loaded

_WARM_UP = 0.15  # of a turn
_QUIET_CORES, _QUIET_S, _PATIENCE_S = 0.03, 0.5, 20


@dataclass(frozen=True)
class Plan:
    """So many rounds, in which everybody has a turn of so many seconds."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """Files go to `folder`, the compiled load generator is `program`, and a line about each step goes to `progress`."""

    plan: Plan
    exports: Exports
    program: Path
    folder: Path
    progress: Callable[[str], None]
    environments: Path | None = None  # of the peers, where they take part
    before: Path | None = None  # the source of an earlier revision, where it takes part

    def run(self, stages: Sequence[Sequence[Scenario]], with_starts: bool) -> Results:
        """Everything."""
        results = Results()
        names = [stage[0].policy for stage in stages]
        self.exports.make([*names, SMALL] if with_starts else names)
        for stage in stages:
            with TemporaryDirectory(dir=self.folder) as folder, ExitStack() as stack:
                launcher = Launcher(
                    Starter(self.exports, Path(folder), stack, self.environments, self.before), self.program
                )
                started = self._started(stage, launcher)
                _wait_until_quiet(launcher)
                for scenario, targets, rows in started:
                    results.rows += rows
                    self._rounds(scenario, targets, rows, launcher)
        if with_starts:
            self.progress("starts with a warm cache")
            results.starts = startup_time.measure(self.exports, self.folder, self.plan.rounds)
        return results

    def _started(
        self, stage: Sequence[Scenario], launcher: Launcher
    ) -> list[tuple[Scenario, list[InProcess | Loaded | None], list[Row]]]:
        """All servers first; whoever cannot be started has a row that says why."""
        found = []
        for scenario in stage:
            targets: list[InProcess | Loaded | None] = []
            rows = []
            for competitor in scenario.competitors:
                row = Row(scenario.name, competitor.name, guest=competitor.kind in (Kind.PEER, Kind.NGINX))
                rows.append(row)
                self.progress(f"{scenario.name}: {competitor.name} is made ready")
                try:
                    targets.append(launcher.target(competitor, scenario))
                except BenchError as error:
                    row.problem = str(error)
                    targets.append(None)
            found.append((scenario, targets, rows))
        return found

    def _rounds(
        self, scenario: Scenario, targets: Sequence[InProcess | Loaded | None], rows: Sequence[Row], launcher: Launcher
    ) -> None:
        """Who comes first changes each round."""
        seconds = self.plan.seconds * scenario.longer
        present = [(target, row) for target, row in zip(targets, rows, strict=True) if target is not None]
        for target, _ in present:
            if isinstance(target, Loaded):
                target.generator.run(target.port, self.plan.seconds * _WARM_UP, target.clients)
        for number in range(self.plan.rounds):
            self.progress(f"{scenario.name}: round {number + 1} of {self.plan.rounds}")
            for target, row in present if number % 2 == 0 else reversed(present):
                if not row.problem:
                    self._turn(target, row, seconds, launcher)

    def _turn(self, target: InProcess | Loaded, row: Row, seconds: float, launcher: Launcher) -> None:
        """One sample; whoever breaks is out."""
        running = target.pid if isinstance(target, Loaded) else 0
        others = [pid for other in launcher.running if other != running for pid in usage.family(other)]
        before = usage.cpu_s(others)
        try:
            sample = target.measure(seconds)
        except BenchError as error:
            row.problem = str(error)
            return
        idle_cores = max(0.0, usage.cpu_s(others) - before) / seconds
        row.samples.append(replace(sample, idle_cores=idle_cores))


def _wait_until_quiet(launcher: Launcher) -> None:
    """A server that has just started still makes things ready, for a while."""
    pids = [pid for one in launcher.running for pid in usage.family(one)]
    until = time.monotonic() + _PATIENCE_S
    cores = 1.0
    while cores > _QUIET_CORES and time.monotonic() < until:
        before = usage.cpu_s(pids)
        time.sleep(_QUIET_S)
        cores = (usage.cpu_s(pids) - before) / _QUIET_S
