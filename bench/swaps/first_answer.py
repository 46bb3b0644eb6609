"""A server and checkpoints → milliseconds from publication to the first answer, for each way to publish."""

from __future__ import annotations

import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.server import Server
from bench.swaps.checkpoints import Checkpoints
from bench.swaps.prober import Prober

_AT_MOST_S = 30
# Between two swaps; not always the same, so that nothing that the server does at intervals falls into step with it.
_PAUSE_S = (0.2, 0.4)
_STORY = re.compile(r": (\S+) \(train step \S+ serves: (.*)")
_STAGE = re.compile(r"(\w+) in ([0-9.]+) ms")

# A way makes the next checkpoint ready. It returns its name and what publishes it, which returns the moment of that.
Way = Callable[[Server, Checkpoints], tuple[str, Callable[[], float]]]


@dataclass(frozen=True)
class FirstAnswers:
    """How long each swap of one kind took, in milliseconds. `first_ms` is the one before, which does not count."""

    way: str
    first_ms: float
    latencies_ms: list[float]
    stages_ms: dict[str, float]  # medians of what the server's log says; empty where it says nothing
    answers: int
    failures: int

    @property
    def median_ms(self) -> float:
        """Half of the swaps took no longer."""
        return statistics.median(self.latencies_ms)

    @property
    def p90_ms(self) -> float:
        """Nine in ten took no longer."""
        return sorted(self.latencies_ms)[-(-len(self.latencies_ms) * 9 // 10) - 1]

    @property
    def max_ms(self) -> float:
        """None took longer."""
        return max(self.latencies_ms)


def _by_watching(_: Server, checkpoints: Checkpoints) -> tuple[str, Callable[[], float]]:
    """From when the rename into the watched folder has returned."""
    return checkpoints.upcoming, lambda: checkpoints.publish()[1]


def _by_reload(server: Server, checkpoints: Checkpoints) -> tuple[str, Callable[[], float]]:
    """From when `reload` by name is sent; the checkpoint lies there already, and nobody watches."""
    name, _ = checkpoints.publish()
    body = json.dumps({"checkpoint": name}).encode()
    return name, lambda: _timed(server, "POST", f"/admin/policies/{server.policy}/reload", body)


def _by_upload(server: Server, checkpoints: Checkpoints) -> tuple[str, Callable[[], float]]:
    """From when the upload begins."""
    name, tar = checkpoints.as_tar()
    path = f"/admin/policies/{server.policy}/checkpoints/{name}?activate=true"
    return name, lambda: _timed(server, "PUT", path, tar)


WATCHED: dict[str, Way] = {"watch": _by_watching}
UNWATCHED: dict[str, Way] = {"reload": _by_reload, "upload": _by_upload}


def measure(way: str, server: Server, checkpoints: Checkpoints, swaps: int, body: bytes) -> FirstAnswers:
    """`swaps` swaps after one that does not count, each published when the one before has long been over."""
    checkpoints.prepare(swaps + 1)
    step = (WATCHED | UNWATCHED)[way]
    pauses = random.Random(0)
    names, latencies = [], []
    with Prober(server.port, server.action, body) as prober:
        for _ in range(swaps + 1):
            name, publish = step(server, checkpoints)
            time.sleep(pauses.uniform(*_PAUSE_S))
            published = publish()
            latencies.append(1000 * (prober.first_answer(name, _AT_MOST_S) - published))
            names.append(name)
            checkpoints.prune()
    stages = stages_in(server.log, names[1:])
    return FirstAnswers(way, latencies[0], latencies[1:], stages, prober.answers, prober.failures)


def stages_in(log: Path, names: Sequence[str]) -> dict[str, float]:
    """Medians, in milliseconds, of the stages that the log reports of the swaps to `names`."""
    found = defaultdict(list)
    for line in log.read_text(errors="replace").splitlines():
        story = _STORY.search(line)
        if story and story[1] in names:
            for stage, took_ms in _STAGE.findall(story[2]):
                found[stage].append(float(took_ms))
    return {stage: statistics.median(values) for stage, values in found.items()}


def _timed(server: Server, method: str, path: str, body: bytes) -> float:
    began = time.perf_counter()
    server.call(method, path, body)
    return began
