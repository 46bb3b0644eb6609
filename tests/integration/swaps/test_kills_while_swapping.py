"""Workers and the builder killed or stopped while weights are swapped: every swap comes about, no answer is wrong."""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import threads_running, until

WORKER, BUILDER = "app.worker", "app.builder"
WORKERS = 2
HOWS = ((BUILDER, signal.SIGKILL), (WORKER, signal.SIGKILL), (WORKER, signal.SIGSTOP), (BUILDER, signal.SIGSTOP))
# The worker that was to report a swap may be stopped when all is done: nobody waits for it but the client.
PATIENCE_S = 20.0


@dataclass
class Story:
    """What the clients of a server saw. `acknowledged` is the train step of the last reload that was answered."""

    acknowledged: int = 0
    answers: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Asking(threading.Thread):
    """Asks and asks. A connection may be lost with its worker; refused it is never, and no answer is wrong or old."""

    def __init__(self, url: str, story: Story, mark: int, over: threading.Event) -> None:
        super().__init__()
        self._url, self._story, self._mark, self._over = url, story, mark, over

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as client:
                    while not self._over.wait(0.04):
                        self._ask(client)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                self._story.lost[type(error).__name__] += 1
            except Exception as error:
                self._story.wrong.append(repr(error))

    def _ask(self, client: httpx.Client) -> None:
        least = self._story.acknowledged
        answer = client.post("/action", json={"observation": [self._mark, 0, 0, 0]})
        step = answer.json()["train_step"] if answer.status_code == 200 else -1
        if step < least or answer.json()["action"] != [1000 * step + self._mark] * 2:
            self._story.wrong.append(f"{answer.status_code}, after {least} was acknowledged: {answer.text[:300]}")
        self._story.answers += 1


@contextmanager
def load(url: str, clients: int = 4) -> Iterator[Story]:
    story, over = Story(), threading.Event()
    threads = [Asking(url, story, mark, over) for mark in range(clients)]
    with threads_running(threads, over):
        yield story


def reload(server: RunningServer, name: str, tries: Counter[str]) -> int:
    """Reloads until the server reports it done; the train step that serves then."""
    bearer = {"Authorization": server.admin.headers["authorization"]}
    for _ in range(10):
        try:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S, headers=bearer) as client:
                answer = client.post("/admin/policies/p/reload", json={"checkpoint": name})
        except (httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout) as error:
            tries[type(error).__name__] += 1
            continue
        if answer.status_code == 200:
            return int(answer.json()["train_step"])
        tries[f"{answer.status_code} {answer.json()['title']}: {answer.json()['detail']}"] += 1
        # Killed twice over the same checkpoint; by itself it could have crashed, but it is tried afresh.
        assert answer.status_code in (503, 504) or "the builder process was killed while" in answer.text, answer.text
    raise AssertionError(f"{name} cannot be reloaded: {tries}")


def strike(server: RunningServer, module: str, number: int, after_s: float, draw: random.Random) -> None:
    """Sends the signal to one of these processes, as soon as there is one that runs."""
    time.sleep(after_s)
    running: list[int] = []
    while not running:
        running = [pid for pid in server.processes(module) if processes.runs(pid)]
    os.kill(draw.choice(running), number)


def is_whole(server: RunningServer) -> bool:
    pids = server.processes(WORKER), server.processes(BUILDER)
    return [len(kind) for kind in pids] == [WORKERS, 1] and all(processes.runs(pid) for kind in pids for pid in kind)


def of_this_server(place: Path) -> list[int]:
    """All processes that were started with `place` for their temporary files, also those that nobody looks after."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={place}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return sorted(found)


def leftovers(server: RunningServer, place: Path) -> dict[str, int]:
    """What may not become more with every process that is killed."""
    return {
        "processes": len(of_this_server(place)),
        "children": len(server.processes()),
        "descriptors": len(processes.descriptors(server.process.pid)),
        "temporary": len(list(place.iterdir())),
        "counts": len(list(place.glob("*/*.db"))),
    }


def conversions(place: Path) -> list[Path]:
    """Folders that builders convert in; TensorFlow has files of its own beside them, and Python compiles those."""
    with suppress(FileNotFoundError):  # a builder begins anew meanwhile
        return [path for path in place.glob("*/.builder/*") if path.is_dir() and path.name != "__pycache__"]
    return []


def kill_while_it_converts(server: RunningServer, place: Path, name: str, tries: Counter[str]) -> None:
    """Kills the builder, and its successor as soon as that has begun to write weights for itself."""
    killed = server.processes(BUILDER)
    os.kill(killed[0], signal.SIGKILL)
    swapped: list[int] = []
    swap = threading.Thread(target=lambda: swapped.append(reload(server, name, tries)))
    swap.start()
    until(lambda: conversions(place), "a conversion")
    (builder,) = server.processes(BUILDER)
    os.kill(builder, signal.SIGKILL)
    swap.join()
    assert swapped == [int(name)]
    until(lambda: server.processes(BUILDER) not in ([], [builder]), "another builder")


def restarts(server: RunningServer) -> int:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        found = re.findall(r"policy_server_restarts_total\{process=\"\w+\"\} (\d+)", client.get("/metrics").text)
    return sum(map(int, found))


@pytest.mark.timeout(7200)
def test_processes_killed_or_stopped_while_swapping_cost_time_and_nothing_else(tmp_path: Path, full: bool) -> None:
    swaps, kills = (200, 100) if full else (6, 3)
    trainer, place, draw = NumberTrainer(tmp_path / "p", filler=20_000), tmp_path / "tmp", random.Random(14)
    place.mkdir()
    options = ("--no-watch", "--workers", str(WORKERS), "--stalled-s", "1", "--state-dir", str(tmp_path / "state"))
    tries: Counter[str] = Counter()
    took_s: list[float] = []
    with serving({"p": trainer.folder}, *options, TMPDIR=str(place)) as server:
        with load(server.url) as story:
            until(lambda: story.answers >= 50 and is_whole(server), "answers")
            before = leftovers(server, place)
            for step in range(1, swaps + 1):
                name = trainer.publish(step)
                strikes = step * kills // swaps > (step - 1) * kills // swaps
                kind = (step * kills // swaps) % len(HOWS) if strikes else 0
                killer = threading.Thread(target=strike, args=(server, *HOWS[kind], draw.uniform(0, 0.08), draw))
                began = time.monotonic()
                if strikes:
                    killer.start()
                assert reload(server, name, tries) == step
                story.acknowledged = step
                took_s.append(time.monotonic() - began)
                if strikes:
                    killer.join()
            assert reload(server, trainer.publish(swaps), tries) == swaps
            until(lambda: is_whole(server), "all processes")
            kill_while_it_converts(server, place, trainer.publish(swaps + 1), tries)
            assert reload(server, trainer.publish(swaps + 2), tries) == swaps + 2
            story.acknowledged = swaps + 2
            until(lambda: is_whole(server), "all processes")
            goal = story.answers + 50
            until(lambda: story.answers >= goal or story.wrong, "answers")
            assert story.wrong == []
        until(lambda: leftovers(server, place)["descriptors"] <= before["descriptors"] + 3, "closed descriptors")
        after = leftovers(server, place)
        ended = restarts(server)
        assert not any("Traceback" in line for line in server.lines)
        print(
            f"{swaps} swaps done, {kills} kills and stops, {ended} processes started again; the slowest swap took "
            f"{max(took_s):.1f} s; asked again for: {dict(tries)}; {story.answers} answers, 0 wrong or old, "
            f"{story.lost.total()} lost with their worker; before {before}, after {after}"
        )
        # One may be hit twice before it is gone. And one that gets nothing done on a busy machine is started again.
        idle = sum("got nothing done" in line for line in server.lines)
        assert kills - kills // 10 <= ended <= kills + 2 + idle
        assert list(place.glob("*/.builder")) != []
        assert conversions(place) == []
        assert {kind: after[kind] for kind in ("processes", "children", "temporary")} == {
            kind: before[kind] for kind in ("processes", "children", "temporary")
        }
        assert after["counts"] <= before["counts"] + 4  # one more of each kind, and not for each that was killed
    assert list(place.iterdir()) == []
    assert of_this_server(place) == []
    assert not [path for path in (tmp_path / "state").rglob("*") if path.name.startswith(".")]
