"""Servers of ours behind deploy/haproxy.cfg: one is killed, one is stopped, and no request of a simulator fails."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import policies
from tests.support.haproxy import proxied
from tests.support.server import RunningServer, serving

ACTION = "/v1/policies/cartpole/action"
OBSERVATION = {"observation": [0.1, 0.0, -0.2, 0.0]}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    export = tmp_path_factory.mktemp("proxied") / "cartpole"
    policies.export("cartpole", export)
    with (
        serving({"cartpole": export}, prepared=True) as one,
        serving({"cartpole": export}, prepared=True) as two,
        serving({"cartpole": export}, prepared=True) as three,
    ):
        yield [one, two, three]


class Simulator(threading.Thread):
    """Asks for actions on one connection until it is stopped; `statuses` are those of its answers."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.statuses: list[int] = []
        self.stopped = threading.Event()
        self._url = url

    def run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, verify=False, timeout=60) as client:
            while not self.stopped.is_set():
                self.statuses.append(client.post(ACTION, json=OBSERVATION).status_code)


def test_servers_end_and_no_action_fails(servers: list[RunningServer], tmp_path: Path) -> None:
    with proxied([f"127.0.0.1:{server.port}" for server in servers], tmp_path / "haproxy.log") as url:
        simulators = [Simulator(url) for _ in range(9)]
        for simulator in simulators:
            simulator.start()
        try:
            _wait_for_answers(simulators, 20)
            for server in servers[:2]:
                server.process.kill() if server is servers[0] else server.process.terminate()
                server.process.wait()
                _wait_for_answers(simulators, 20)
        finally:
            for simulator in simulators:
                simulator.stopped.set()
                simulator.join()
    answered = [status for simulator in simulators for status in simulator.statuses]
    assert set(answered) == {200}


def _wait_for_answers(simulators: list[Simulator], count: int) -> None:
    """Until each has had so many more, or has ended."""
    before = [len(simulator.statuses) for simulator in simulators]
    waiting = threading.Event()
    for simulator, number in zip(simulators, before, strict=True):
        while simulator.is_alive() and len(simulator.statuses) < number + count:
            waiting.wait(0.02)
