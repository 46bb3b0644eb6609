"""RunningWorkers that change weights together; processes that are killed and come back; a start without TensorFlow."""

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import SteadyLoad, until

WORKER, BUILDER = "app.worker", "app.builder"


class Scenario:
    """A server with two workers, a policy whose answers show the version, and a client of each worker."""

    def __init__(self, trainer: NumberTrainer, server: RunningServer) -> None:
        self.trainer = trainer
        self.server = server
        self.step = 0
        self.good = {"export": 0}

    def publish(self) -> str:
        self.step += 1
        name = self.trainer.publish(self.step)
        self.good[name] = self.step
        return name

    def reload(self) -> httpx.Response:
        return self.server.reload("p", checkpoint=self.publish())

    @contextlib.contextmanager
    def client(self, worker: int) -> Iterator[httpx.Client]:
        """A client whose connection this worker has accepted: the others are stopped meanwhile."""
        others = [pid for pid in self.server.processes(WORKER) if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            with httpx.Client(base_url=self.server.url, trust_env=False, timeout=600) as client:
                ask(client)
                for pid in others:
                    os.kill(pid, signal.SIGCONT)
                others = []
                yield client
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def clients(self) -> Iterator[list[httpx.Client]]:
        """One client of each worker."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.client(pid)) for pid in self.server.processes(WORKER)]


def ask(client: httpx.Client, **options: object) -> int:
    body = {"observation": [7, 0, 0, 0], "options": options}
    answer = client.post("/action", json=body).raise_for_status().json()
    assert answer["action"] == [1000 * answer["train_step"] + 7] * 2
    return int(answer["train_step"])


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    trainer = NumberTrainer(tmp_path_factory.mktemp("processes") / "p", filler=20_000)
    with serving({"p": trainer.folder}, "--workers", "2", "--no-watch", prepared=True) as server:
        yield Scenario(trainer, server)


def test_when_a_reload_answers_every_worker_serves_the_new_version(scenario: Scenario) -> None:
    with scenario.clients() as clients:
        assert len(clients) == 2
        for _ in range(5):
            assert scenario.reload().status_code == 200
            assert [ask(client) for client in clients] == [scenario.step] * 2


def test_min_train_step_holds_from_any_worker(scenario: Scenario) -> None:
    with scenario.clients() as clients:
        for asked, other in (clients, clients[::-1]):
            scenario.publish()
            scenario.server.reload("p")  # nothing is pinned any more
            scenario.publish()
            assert ask(asked, min_train_step=scenario.step) == scenario.step
            assert ask(other) == scenario.step
            refused = other.post(
                "/action",
                json={"observation": [7, 0, 0, 0], "options": {"min_train_step": scenario.step + 1, "timeout_ms": 100}},
            )
            assert refused.status_code == 409


def test_a_pause_holds_on_every_worker(scenario: Scenario) -> None:
    with scenario.clients() as clients:
        path = "/admin/policies/p"
        assert scenario.server.admin.post(f"{path}/pause", json={"mode": "reject"}).json() == {"paused": "reject"}
        for client in clients:
            assert client.post("/action", json={"observation": [7, 0, 0, 0]}).status_code == 503
            assert client.get("/v1/policies/p").json()["paused"] == "reject"
        assert scenario.server.admin.post(f"{path}/resume").json() == {"paused": None}
        assert [ask(client) for client in clients] == [scenario.step] * 2


def test_every_worker_reports_what_all_have_counted(scenario: Scenario) -> None:
    """Of a route that nothing else here asks; the others' counts come a moment later."""

    def counted(client: httpx.Client) -> int:
        line = 'policy_server_answers_total{policy="p",route="get_initial_state",status="200"} '
        found = client.get("/metrics").text.partition(line)[2].split()
        return int(float(found[0])) if found else 0

    with scenario.clients() as (one, other):
        for client in (one, one, one, other, other):
            client.post("/get_initial_state", json={}).raise_for_status()
        assert (counted(one) >= 3, counted(other) >= 2) == (True, True)
        until(lambda: counted(one) == counted(other) == 5, "all counts at both workers")


def test_a_worker_that_is_killed_comes_back_on_the_version_that_serves_by_then(scenario: Scenario) -> None:
    scenario.reload()
    killed, kept = scenario.server.processes(WORKER)
    with scenario.client(kept) as client:
        before = scenario.server.processes()
        os.kill(killed, signal.SIGKILL)
        for _ in range(3):
            path = "/admin/policies/p/reload"
            name = scenario.publish()
            bearer = scenario.server.admin.headers["authorization"]
            answer = client.post(path, json={"checkpoint": name}, headers={"Authorization": bearer})
            assert answer.status_code == 200
            assert ask(client) == scenario.step
        until(lambda: len(scenario.server.processes(WORKER)) == 2, "another worker")
    assert len(before) == len(scenario.server.processes())
    until(
        lambda: any(re.search(" worker [12] ended .killed by SIGKILL.", line) for line in scenario.server.lines),
        "a line in the log",
    )
    with scenario.clients() as clients:
        assert [ask(client) for client in clients] == [scenario.step] * 2


def test_a_worker_killed_in_the_middle_of_a_swap_holds_nobody_up(scenario: Scenario, full: bool) -> None:
    generator = random.Random(5)
    for _ in range(20 if full else 3):
        until(lambda: len(scenario.server.processes(WORKER)) == 2, "two workers")
        kept, killed = scenario.server.processes(WORKER)
        with scenario.client(kept) as client:
            name, delay_s = scenario.publish(), generator.uniform(0, 0.03)
            killer = threading.Timer(delay_s, os.kill, (killed, signal.SIGKILL))
            killer.start()
            bearer = {"Authorization": scenario.server.admin.headers["authorization"]}
            answer = client.post("/admin/policies/p/reload", json={"checkpoint": name}, headers=bearer)
            killer.join()
            assert answer.status_code == 200, answer.text
            assert ask(client) == scenario.step
        until(lambda killed=killed: killed not in scenario.server.processes(WORKER), "its end")
        with scenario.clients() as clients:
            assert [ask(client) for client in clients] == [scenario.step] * len(clients)


def reload_meanwhile_killed(scenario: Scenario, builder: int, after_s: float) -> httpx.Response:
    """Reloads a new version, and kills the builder that long after the request was sent."""
    answers: list[httpx.Response] = []
    name = scenario.publish()
    swap = threading.Thread(target=lambda: answers.append(scenario.server.reload("p", checkpoint=name)))
    swap.start()
    time.sleep(after_s)
    os.kill(builder, signal.SIGKILL)
    swap.join()
    until(lambda: scenario.server.processes(BUILDER) not in ([], [builder]), "another builder")
    return answers[0]


def test_a_builder_killed_at_any_moment_of_a_swap_costs_time_and_nothing_else(scenario: Scenario, full: bool) -> None:
    kills, generator = 100 if full else 3, random.Random(6)
    took_ms = []
    with SteadyLoad(scenario.server.url, "p", scenario.good) as load:
        for _ in range(kills):
            (builder,) = scenario.server.processes(BUILDER)
            answer = reload_meanwhile_killed(scenario, builder, generator.uniform(0, 0.06))
            assert answer.status_code == 200, answer.text
            assert answer.json()["train_step"] == scenario.step
            took_ms.append(answer.json()["took_ms"])
            load.more(5)
        # It may have been done when it was killed: then the next swap waits for its successor.
        assert scenario.reload().status_code == 200
    assert load.failures == []
    restarts = re.search(r'restarts_total{process="builder"} (\d+)', scenario.server.http.get("/metrics").text)
    assert restarts is not None
    assert int(restarts[1]) == kills
    in_the_middle = sum(took > 500 for took in took_ms)
    print(
        f"{kills} kills, {in_the_middle} of them before the builder was done; the slowest swap took "
        f"{max(took_ms) / 1000:.1f} s; {load.answers.total()} answers, 0 failed"
    )


def test_nothing_stays_open_after_all_that(scenario: Scenario) -> None:
    assert 0 < len(processes.descriptors(scenario.server.process.pid)) < 60
    assert len(scenario.server.processes()) == 3


def test_with_a_warm_cache_it_answers_where_tensorflow_cannot_be_imported(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "p")
    trainer.publish(1)
    trainer.publish(2)
    options = ("--state-dir", str(tmp_path / "state"))
    with serving({"p": trainer.folder}, *options) as server:
        assert ask(server.http) == 2
    (tmp_path / "broken" / "tensorflow").mkdir(parents=True)
    (tmp_path / "broken" / "tensorflow" / "__init__.py").write_text("raise ImportError('not here')")
    with serving({"p": trainer.folder}, *options, PYTHONPATH=str(tmp_path / "broken")) as server:
        assert ask(server.http) == 2
        assert server.http.get("/v1/policies/p").json()["engine"] == "litert"
        until(lambda: any("the builder process ended (exit status 1)" in line for line in server.lines), "its end")
        assert ask(server.http) == 2


def test_server_that_is_killed_takes_its_processes_with_it_and_its_port_is_free(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "p")
    with serving({"p": trainer.folder}, "--workers", "2", prepared=True) as server:
        children = server.processes()
        assert len(children) == 3
        server.process.kill()
        server.process.wait()
        until(lambda: not any(processes.state(pid) for pid in children), "the end of its processes")
        with pytest.raises(httpx.ConnectError):
            server.http.get("/livez")
