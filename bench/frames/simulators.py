# ruff: noqa: S603
"""A server's port and a number of simulators → how it answers their frames. `simulators.c` does it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError

SOURCE = Path(__file__).with_name("simulators.c")
# The share of the frames that may be late.
MOST_LATE = 0.001
# Starting sessions takes a millisecond each at most; the program waits 5 s for what is unanswered.
_EXTRA_S = 60


@dataclass(frozen=True)
class Frames:
    """What simulators.c reports of one run. Late: not answered within 1/`hz` of when it was due, or not at all."""

    simulators: int
    hz: float
    seconds: float
    frames: int  # that were due
    late: int
    failures: int  # frames without a good answer
    statuses: dict[str, int]
    p50_ms: float  # of all frames that were due; -1: not answered
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    sent_late: int  # frames sent more than 1 ms after they were due
    most_late_ms: float
    cpu_s: float  # of the program itself
    versions: list[str]  # in the order in which answers first named them

    @property
    def holds(self) -> bool:
        """Whether 99.9 % of the frames were answered within one frame, and none failed."""
        return self.failures == 0 and self.late <= MOST_LATE * self.frames


@dataclass(frozen=True)
class Simulators:
    """The compiled program, a file of observations (JSON, one a line), and the path of a policy's sessions."""

    program: Path
    observations: Path
    path: str

    def run(
        self, port: int, count: int, hz: float, seconds: float, meanwhile: Callable[[], object] = lambda: None
    ) -> Frames:
        """Has `count` simulators send frames for `seconds`; `meanwhile` is called once when they begin.

        Raises:
          BenchError: a session could not be started, or the program did not end.
        """
        words = ["-p", port, "-P", self.path, "-f", self.observations, "-n", count, "-z", hz, "-s", seconds]
        with subprocess.Popen(
            [self.program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline():
                    meanwhile()
                output, error = process.communicate(timeout=seconds + _EXTRA_S)
            except subprocess.TimeoutExpired:
                raise BenchError("the simulators did not end") from None
            finally:
                process.kill()
        if process.returncode:
            raise BenchError(error.strip() or f"the simulators ended with status {process.returncode}")
        known: dict[str, Any] = json.loads(output)
        return Frames(**{name: known[name] for name in Frames.__dataclass_fields__})
