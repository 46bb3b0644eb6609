# ruff: noqa: S603
"""Which policies are served and where their exports lie. Knows no TensorFlow: they are made in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError
from bench.harness.server import ROOT, serving

SMALL, RECURRENT, IMAGE, SLOW, MANY, SWAPPED = "small", "recurrent", "image", "slow", "many", "swapped"
TRAIN_STEP = 700
HOW_MANY = 100
# Checkpoints that wait to be published; every server that they are published to gets them all.
SWAPS = 60
READY = "ready"
_MAKING_S = 600


@dataclass(frozen=True)
class Exports:
    """The folder with one export per name, and a line about each step to `progress`."""

    folder: Path
    progress: Callable[[str], None]

    def make(self, names: Iterable[str]) -> None:
        """Makes those that are not there yet."""
        missing = [name for name in dict.fromkeys(names) if not (self.folder / name).exists()]
        if not missing:
            return
        self.progress(f"exports: {', '.join(missing)}")
        words = [sys.executable, "-m", "bench.serving.policies", str(self.folder), *missing]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=_MAKING_S, check=False)
        if done.returncode:
            raise BenchError("the policies cannot be exported: " + done.stderr.strip()[-1000:])

    def policies(self, name: str, count: int = 1) -> dict[str, Path]:
        """What a server is to serve, by name: the export itself, or `count` of the many, again from the first."""
        if name != MANY:
            return {name: self.folder / name}
        return {f"{MANY}-{number:03}": self.folder / name / f"{number % HOW_MANY:03}" for number in range(count)}

    def copied(self, name: str, to: Path) -> Path:
        """A copy that its user may publish checkpoints into."""
        shutil.copytree(self.folder / name, to, ignore=shutil.ignore_patterns(READY))
        return to

    def compiled(self, name: str, count: int = 1, tree: Path = ROOT) -> Path:
        """A server's --state-dir in which policies lie compiled: for warm starts, and to run one without a server.

        `tree` is the source of the server that compiles them: it need not take what another revision has compiled.
        """
        state = self.folder / f"{name}-{count}-state{'' if tree == ROOT else '-before'}"
        if not state.exists():
            self.progress(f"{name}: compiled beforehand")
            made = self.folder / f".{state.name}"
            with serving(
                self.policies(name, count),
                self.folder / f"{name}.log",
                ["--engine", "litert", "--state-dir", str(made)],
                tree,
            ):
                pass
            made.rename(state)  # whole, or not there
        return state
