# ruff: noqa: T201
"""What `save_checkpoint` costs beside TF-Agents' own, in alternating rounds: weights in, a table out.

Exits with 1 when ours takes more than 1.5 times theirs and more than 20 ms longer (medians).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tf_agents.networks import q_network
from tf_agents.policies import policy_saver, q_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step

from saver import PolicySaver

RATIO = 1.5
EXTRA_MS = 20
# Two layers of n units hold about 4·n² bytes.
UNITS = {"small": 64, "5 MB": 1110, "50 MB": 3530}


@dataclass(frozen=True)
class Times:
    """Milliseconds of each round, for weights of `megabytes`."""

    name: str
    megabytes: float
    theirs: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """Ours by theirs, of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def extra_ms(self) -> float:
        """How much longer ours takes, of the medians."""
        return statistics.median(self.ours) - statistics.median(self.theirs)

    @property
    def holds(self) -> bool:
        """Whether it is within the limit."""
        return self.ratio <= RATIO or self.extra_ms <= EXTRA_MS


def measure(name: str, units: int, rounds: int, folder: Path) -> Times:
    """Saves the same policy with both savers by turns, `rounds` times after two that do not count."""
    policy = _policy(units)
    step = tf.Variable(0, dtype=tf.int64)
    savers = [kind(policy, train_step=step) for kind in (policy_saver.PolicySaver, PolicySaver)]
    theirs: list[float] = []
    ours: list[float] = []
    for number in range(rounds + 2):
        step.assign(number)
        both = [(savers[0], theirs), (savers[1], ours)]
        for saver, times in both if number % 2 else reversed(both):
            took_ms = _save(saver, folder / f"{number:010}")
            if number >= 2:
                times.append(took_ms)
    size = sum(variable.numpy().nbytes for variable in policy.variables())
    return Times(name, size / 1e6, theirs, ours)


def _save(saver: Any, folder: Path) -> float:
    os.sync()  # nobody pays for what the other one has left unwritten
    start = time.perf_counter()
    saver.save_checkpoint(str(folder))
    took_ms = 1000 * (time.perf_counter() - start)
    shutil.rmtree(folder)
    return took_ms


def _policy(units: int) -> q_policy.QPolicy:
    observation = tensor_spec.BoundedTensorSpec((4,), tf.float32, -1.0, 1.0, "observation")
    action = tensor_spec.BoundedTensorSpec((), tf.int64, 0, 1, "action")
    network = q_network.QNetwork(observation, action, fc_layer_params=(units, units))
    return q_policy.QPolicy(time_step.time_step_spec(observation), action, network)


def _row(times: Times) -> str:
    cells = []
    for values in (times.theirs, times.ours):
        cells += [statistics.median(values), statistics.quantiles(values, n=10)[-1]]
    numbers = "".join(f"{cell:>10.1f}" for cell in cells)
    outcome = "ok" if times.holds else "TOO SLOW"
    return f"{times.name:<8}{times.megabytes:>8.2f}{numbers}{times.ratio:>8.2f}{times.extra_ms:>10.1f}  {outcome}"


def main() -> int:
    """Prints the table; returns 1 when a row breaks the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.save_checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each size (default: 30)")
    parser.add_argument("--folder", type=Path, help="where to save (default: the system's temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="save-checkpoint-", dir=arguments.folder) as folder:
        print(f"save_checkpoint in ms; limit: {RATIO} times theirs, or {EXTRA_MS} ms more")
        print(f"{'':<16}{'tf-agents':>20}{'ours':>20}")
        print(f"{'weights':<8}{'MB':>8}{'median':>10}{'p90':>10}{'median':>10}{'p90':>10}{'ratio':>8}{'extra':>10}")
        holds = True
        for name, units in UNITS.items():
            times = measure(name, units, arguments.rounds, Path(folder))
            print(_row(times), flush=True)
            holds = holds and times.holds
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
