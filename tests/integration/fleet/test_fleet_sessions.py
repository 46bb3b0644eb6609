"""Episodes whose every step may meet another member, while members are killed and weights swapped: each goes on."""

import http.client
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet.scenario import MEMBERS, Trainer, reload_next
from tests.support.fleet import Fleet, fleet_running
from tests.support.policies import CountingPolicy
from tests.support.steady import threads_running, until

STEPS, OF_ONE_CLIENT, CLIENTS = 8, 10, 6
PAUSE_S = 0.02
ROOT = "/v1/policies/p/sessions"
# What a client meets while a member dies, and asks again for.
PASSING = (502, 503, 504)


@dataclass
class Story:
    """What all clients saw. `answered`: steps; `again`: why steps were sent again."""

    answered: int = 0
    whole: int = 0
    again: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)


class Client(threading.Thread):
    """Steps some episodes in turn on one connection; what is lost is sent again, with the number of its step."""

    def __init__(self, port: int, story: Story, numbers: range) -> None:
        super().__init__(name=f"simulators-{numbers.start}", daemon=True)
        self._port, self._story, self._numbers = port, story, numbers
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._steps: dict[int, list[int]] = {number: [] for number in numbers}

    def run(self) -> None:
        try:
            for step in range(STEPS):
                for number in self._numbers:
                    self._step(number, step)
                    threading.Event().wait(PAUSE_S)
            for number in self._numbers:
                self._send("DELETE", f"{ROOT}/episode-{number}", None, {204, 404})
                self._story.whole += 1
        except Exception as error:
            self._story.wrong.append(f"{self.name}: {error!r}")
        finally:
            self._connection.close()

    def _step(self, number: int, step: int) -> None:
        """Odd episodes keep the weights on which they begin; those of the others never fall."""
        body: dict[str, Any] = {"observation": [1, 2, 3, 4], "run_id": f"run-{number}"}
        if step:
            path, body = f"{ROOT}/episode-{number}/action", body | {"step": step}
        else:
            weights = "episode" if number % 2 else "latest"
            path, body = ROOT, body | {"id": f"episode-{number}", "weights": weights}
        answer = json.loads(self._send("POST", path, body, {200, 201}))
        weights_of, seen = answer["train_step"], self._steps[number]
        assert answer["action"] == [1000 * weights_of + step + 1] * 2, answer
        assert not seen or (weights_of == seen[0] if number % 2 else weights_of >= seen[-1]), (seen, answer)
        seen.append(weights_of)
        self._story.versions.add(weights_of)
        self._story.answered += 1

    def _send(self, method: str, path: str, body: Any, good: set[int]) -> bytes:
        for _ in range(600):
            try:
                self._connection.request(method, path, None if body is None else json.dumps(body))
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self._story.again[type(error).__name__] += 1
            else:
                if response.status in good:
                    return content
                assert response.status in PASSING, f"{method} {path} {body}: {response.status} {content[:300]!r}"
                self._story.again[str(response.status)] += 1
            threading.Event().wait(0.1)
        raise AssertionError(f"{method} {path} has no answer")


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path, filler=1000, kind=CountingPolicy)


@pytest.fixture
def fleet(trainer: Trainer) -> Iterator[Fleet]:
    plan = trainer.plan(sessions=True, options=("--no-watch", "--retained-versions", "64"))
    with fleet_running(plan) as fleet:
        reload_next(fleet, trainer)
        yield fleet


@contextmanager
def simulators(fleet: Fleet, story: Story, episodes: int) -> Iterator[None]:
    """Clients that begin one episode after the other while the block runs, and until there were so many."""
    over, first = threading.Event(), itertools.count(step=OF_ONE_CLIENT)

    def simulate() -> None:
        while (story.whole < episodes or not over.is_set()) and not story.wrong:
            begin = next(first)
            Client(fleet.proxy.port, story, range(begin, begin + OF_ONE_CLIENT)).run()

    threads = [threading.Thread(target=simulate) for _ in range(CLIENTS)]
    with threads_running(threads, over):
        yield


@pytest.mark.timeout(7200)
def test_episodes_go_on_while_members_are_killed(fleet: Fleet, trainer: Trainer, full: bool) -> None:
    episodes, kills = (1000, 6) if full else (100, 1)
    story = Story()
    with simulators(fleet, story, episodes):
        for number in range(kills):
            goal = story.answered + 50
            until(lambda goal=goal: story.answered >= goal or story.wrong, "steps")  # type: ignore[misc]
            reload_next(fleet, trainer, number % MEMBERS)
            member = fleet[number % MEMBERS]
            member.kill()
            member.start()
            fleet.wait_until_whole()
        reload_next(fleet, trainer, MEMBERS - 1)
    print(
        f"{story.whole} episodes of {STEPS} steps over {MEMBERS} members, {kills} of them killed, "
        f"{len(story.versions)} versions; sent again for {dict(story.again)}"
    )
    assert story.wrong == []
    assert story.whole >= episodes
    assert story.answered == story.whole * STEPS
    assert len(story.versions) >= 2
    assert fleet.tracebacks() == []
