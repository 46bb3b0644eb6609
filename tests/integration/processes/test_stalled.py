"""Processes of the server that are stopped, and do not die: nothing waits for them for ever."""

import os
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until

WORKER, BUILDER = "app.worker", "app.builder"


def train_step(client: httpx.Client) -> int:
    return int(client.post("/action", json={"observation": [7, 0, 0, 0]}).raise_for_status().json()["train_step"])


def answers(server: RunningServer) -> bool:
    """On a connection of its own: the worker of an earlier one may be dead."""
    try:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=5) as client:
            return train_step(client) >= 0
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("stalled") / "p")


@pytest.fixture(scope="module")
def lenient(trainer: NumberTrainer) -> Iterator[RunningServer]:
    """Waits for a stopped process, but does not let callers wait."""
    options = ("--no-watch", "--stalled-s", "3600", "--swap-deadline-ms", "400")
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        yield server


@pytest.fixture(scope="module")
def strict(trainer: NumberTrainer) -> Iterator[RunningServer]:
    options = ("--no-watch", "--workers", "2", "--stalled-s", "1")
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        yield server


@pytest.mark.parametrize("change", ["reload", "rollback"])
def test_worker_is_replaced_while_a_swap_waits_and_switches_with_it_later(
    lenient: RunningServer, trainer: NumberTrainer, change: str
) -> None:
    """The swap is asked to go on, and does."""
    step = 1 if change == "reload" else 2
    name = trainer.publish(step)
    if change == "rollback":  # something new, so that the builder is needed; the roll-back waits for its turn
        trainer.publish(3)
    (builder,) = lenient.processes(BUILDER)
    os.kill(builder, signal.SIGSTOP)
    try:
        slow = lenient.reload("p", checkpoint=name)
        assert (slow.status_code, slow.json()["title"]) == (504, "Deadline passed")
        assert "goes on" in slow.json()["detail"]
        if change == "rollback":
            slow = lenient.admin.post("/admin/policies/p/rollback")
            assert slow.status_code == 504
        before = train_step(lenient.http)
        (worker,) = lenient.processes(WORKER)
        os.kill(worker, signal.SIGKILL)
        until(lambda: answers(lenient), "an answer of another worker")
        assert lenient.processes(BUILDER) == [builder]
        with httpx.Client(base_url=lenient.url, trust_env=False, timeout=30) as client:
            assert train_step(client) == before
    finally:
        os.kill(builder, signal.SIGCONT)
    with httpx.Client(base_url=lenient.url, trust_env=False, timeout=30) as client:
        until(lambda: versions(lenient).get(name) in ("active", "released"), "the end of the swap")
        until(lambda: train_step(client) == 1, "the version that was asked for last")


def versions(server: RunningServer) -> dict[str, str]:
    reported = server.admin.get("/admin/policies/p/versions").json()["versions"]
    return {version["version"]: version["state"] for version in reported}


def test_builder_that_gets_nothing_done_is_replaced_and_the_swap_succeeds(
    strict: RunningServer, trainer: NumberTrainer
) -> None:
    (builder,) = strict.processes(BUILDER)
    os.kill(builder, signal.SIGSTOP)
    reloaded = strict.reload("p", checkpoint=trainer.publish(10))
    assert (reloaded.status_code, reloaded.json()["train_step"]) == (200, 10)
    assert train_step(strict.http) == 10
    assert strict.processes(BUILDER) != [builder]
    until(lambda: any(f"process {builder} got nothing done for 1 s" in line for line in strict.lines), "a line")


def test_worker_that_is_stopped_is_replaced_and_never_answers_from_older_weights(
    strict: RunningServer, trainer: NumberTrainer
) -> None:
    until(lambda: len(strict.processes(WORKER)) == 2, "two workers")
    stopped, alive = strict.processes(WORKER)
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: not processes.runs(stopped), "the stop")
    until(lambda: answers(strict), "an answer of the other")
    found: list[httpx.Response] = []
    name = trainer.publish(11)

    def reload() -> None:
        bearer = {"Authorization": strict.admin.headers["authorization"]}
        with httpx.Client(base_url=strict.url, trust_env=False, timeout=60, headers=bearer) as client:
            found.append(client.post("/admin/policies/p/reload", json={"checkpoint": name}))

    thread = threading.Thread(target=reload)
    thread.start()
    thread.join(60)
    assert found[0].json()["train_step"] == 11, found[0].text
    until(lambda: not processes.state(stopped), "its end")
    until(lambda: len(strict.processes(WORKER)) == 2, "two workers")
    assert alive in strict.processes(WORKER)
    for _ in range(20):
        with httpx.Client(base_url=strict.url, trust_env=False, timeout=30) as client:
            assert train_step(client) == 11


def test_worker_that_is_stopped_is_replaced_also_while_nothing_is_swapped(strict: RunningServer) -> None:
    """Whoever has asked it learns that there will be no answer."""
    until(lambda: len(strict.processes(WORKER)) == 2, "two workers")
    workers = strict.processes(WORKER)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    with httpx.Client(base_url=strict.url, trust_env=False, timeout=60) as client:
        assert train_step(client) >= 0  # accepted by a successor
    until(lambda: not any(processes.state(pid) for pid in workers), "their end")
    until(lambda: len(strict.processes(WORKER)) == 2, "two workers")
