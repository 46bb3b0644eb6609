"""What to measure → results: every size with every number of workers, each on servers of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.harness.load import Generator
from bench.harness.server import Server, serving
from bench.swaps import first_answer, under_load
from bench.swaps.checkpoints import Checkpoints
from bench.swaps.report import Results, Subject
from saver.stderr import hushed

# Two layers of n units hold about 4·n² bytes.
UNITS = {"small": (100, 50), "5MB": (1110, 1110), "50MB": (3530, 3530)}
POLICY = "measured"
ACTION = f"/v1/policies/{POLICY}/action"
BODY = b'{"observation": [0.1, -0.2, 0.3, -0.4]}'


@dataclass(frozen=True)
class Wanted:
    """Which sizes (keys of UNITS) are timed and which are loaded; `swaps` are those of each way."""

    timed: list[str]
    loaded: list[str]
    workers: list[int]
    swaps: int
    plan: under_load.Plan
    server_options: list[str]


@dataclass(frozen=True)
class Bench:
    """Measures what is `wanted`; files go to `folder`, and a line about each step to `progress`."""

    wanted: Wanted
    generator: Generator
    folder: Path
    progress: Callable[[str], None]

    def run(self) -> Results:
        """Everything."""
        results = Results()
        for size in UNITS:
            if size in {*self.wanted.timed, *self.wanted.loaded}:
                for workers in self.wanted.workers:
                    self._measure(size, workers, results)
        return results

    def _measure(self, size: str, workers: int, results: Results) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            policy = Path(folder) / "policy"
            self.progress(f"{size}: export")
            with hushed():
                from bench.harness.trainer import (
                    Trainer,
                    q_policy_of,
                )  # here, so that --help need not wait for TensorFlow

                trainer = Trainer(q_policy_of(UNITS[size]))
                trainer.export(policy)
            subject = Subject(size, trainer.megabytes, workers)
            checkpoints = Checkpoints(trainer, policy, Path(folder) / "ready")
            with self._serving(subject, policy, "--watch") as server:
                self._time(first_answer.WATCHED, subject, server, checkpoints, results)
                self._load(subject, server, checkpoints, results)
            checkpoints.prune(0)
            with self._serving(subject, policy, "--no-watch") as server:
                self._time(first_answer.UNWATCHED, subject, server, checkpoints, results)

    def _time(
        self, ways: Iterable[str], subject: Subject, server: Server, checkpoints: Checkpoints, results: Results
    ) -> None:
        for way in ways if subject.size in self.wanted.timed else ():
            self._progress(subject, f"{self.wanted.swaps} swaps by {way}")
            found = first_answer.measure(way, server, checkpoints, self.wanted.swaps, BODY)
            results.first_answers.append((subject, found))

    def _load(self, subject: Subject, server: Server, checkpoints: Checkpoints, results: Results) -> None:
        if subject.size in self.wanted.loaded:

            def progress(what: str) -> None:
                self._progress(subject, what)

            found = under_load.measure(server, checkpoints, self.generator, self.wanted.plan, progress)
            results.under_load.append((subject, found))

    def _serving(self, subject: Subject, policy: Path, watch: str) -> AbstractContextManager[Server]:
        self._progress(subject, f"a server with {watch}")
        options = ["--workers", str(subject.workers), watch, *self.wanted.server_options]
        return serving({POLICY: policy}, self.folder / "server.log", options)

    def _progress(self, subject: Subject, what: str) -> None:
        self.progress(f"{subject.size}, {subject.workers} worker{'s' if subject.workers > 1 else ''}: {what}")
