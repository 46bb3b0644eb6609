"""Requests that come while the event loop does something else become one job: each is answered as by itself."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from saver import PolicySaver
from tests.integration.inference.test_fast_path import Connection, post
from tests.support import demanding, dependent, processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

CLIENTS = 12
LONG = 376


def four(draw: random.Random) -> list[float]:
    return [round(draw.uniform(-1, 1), 3) for _ in range(4)]


def body(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def unusual(draw: random.Random) -> bytes:
    """Says something that most requests do not, or is refused."""
    usual = four(draw)
    return body(
        draw.choice(
            [
                {"observation": [usual, usual]},
                {"observation": usual, "step_type": 0},
                {"observation": usual, "reward": 0.5, "discount": 0.5},
                {"observation": usual, "options": {"mode": "greedy"}},
                {"observation": usual, "options": {"mode": "mad"}},
                {"observation": usual, "more": 1},
                {"observation": None},
                {"observation": [1, 2, 3]},
                {"observation": [1e39] * 4},
                {"observation": "up"},
                {},
                [],
                b"{",
                b"\xff",
                b'{"observation":[NaN,0,0,0]}',
                b'{"observation":[0,0,0,0],"observation":[1,1,1,1]}',
            ]
        )
    )


class Crowd:
    """Connections whose requests come at once: the worker is stopped while they are sent."""

    def __init__(self, server: RunningServer, policy: str, usual: Any) -> None:
        self.server = server
        self.path, self.labels = f"/v1/policies/{policy}/action", f'{{policy="{policy}"}}'
        self.worker = processes.children(server.process.pid, "app.worker")[0]
        self.connections = [Connection(server) for _ in range(CLIENTS)]
        for connection in self.connections:  # their heads are known from then on
            connection.send(post(self.path, body({"observation": usual})))
            connection.answer()
        self.ask([body({"observation": usual})] * CLIENTS)  # so that many of them are expected

    def ask(
        self, bodies: Sequence[bytes], then: Callable[[], None] = lambda: None, policies: Sequence[str] = ()
    ) -> list[tuple[bytes, bytes]]:
        """The answers of those connections that are open after `then`, which is called before any request is read.

        `policies`: for each of them, where it is another than the crowd's.
        """
        paths = [f"/v1/policies/{policy}/action" for policy in policies] or [self.path] * CLIENTS
        os.kill(self.worker, signal.SIGSTOP)
        try:
            for connection, path, one in zip(self.connections, paths, bodies, strict=True):
                connection.send(post(path, one))
            then()
        finally:
            os.kill(self.worker, signal.SIGCONT)
        return [connection.answer() for connection in self.connections if connection.socket.fileno() >= 0]

    def ask_alone(self, one: bytes) -> tuple[bytes, bytes]:
        connection = Connection(self.server)
        with connection.socket:
            connection.send(post(self.path, one))
            return connection.answer()

    def batches(self) -> tuple[float, float]:
        """How many batches there were, and rows in them."""
        lines = [line.rpartition(" ") for line in self.server.http.get("/metrics").text.splitlines()]
        found = {name: float(value) for name, _, value in lines if name.startswith("policy_server_batch_rows_")}
        return found[f"policy_server_batch_rows_count{self.labels}"], found[
            f"policy_server_batch_rows_sum{self.labels}"
        ]

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()


def near(found: Any, expected: Any) -> bool:
    """Whether two structures are equal, their floats up to rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return bool(found == pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else found == expected)


def check_same(found: tuple[bytes, bytes], expected: tuple[bytes, bytes]) -> None:
    assert found[0].split(b"\r\n")[0] == expected[0].split(b"\r\n")[0], (found, expected)
    assert near(json.loads(found[1]), json.loads(expected[1])), (found, expected)


@pytest.mark.parametrize("policy", ["cartpole", "recurrent", "fixed", "unnested"])
def test_each_is_answered_as_by_itself(server: RunningServer, policy: str, full: bool) -> None:
    draw = random.Random(policy)
    crowd = Crowd(server, policy, four(draw))
    for unusual_ones in [0, 1, 4, CLIENTS - 1] * (50 if full else 3):
        sent = [body({"observation": four(draw)}) for _ in range(CLIENTS)]
        for place in draw.sample(range(CLIENTS), unusual_ones):
            sent[place] = unusual(draw)
        expected = [crowd.ask_alone(one) for one in sent]
        for found, wanted in zip(crowd.ask(sent), expected, strict=True):
            check_same(found, wanted)
    crowd.close()


@pytest.mark.parametrize("policy", ["recurrent", "fixed"])
def test_everybody_goes_on_from_the_state_that_he_sent(server: RunningServer, policy: str, full: bool) -> None:
    """Some begin an episode where others are in the midst of theirs; each step is what it is by itself."""
    draw = random.Random(policy)
    crowd = Crowd(server, policy, four(draw))
    states: list[Any] = [None] * CLIENTS
    for share in [0.0, 0.0, 0.2, 0.6, 0.0, 1.0] * (20 if full else 2):
        states = [None if draw.random() < share else state for state in states]
        steps = [{"observation": four(draw)} | ({"policy_state": state} if state else {}) for state in states]
        sent = [body(step) for step in steps]
        if share == 0.2:
            sent[draw.randrange(CLIENTS)] = body({"observation": four(draw), "policy_state": [[0.5]]})
        expected = [crowd.ask_alone(one) for one in sent]
        before, found = crowd.batches(), crowd.ask(sent)
        for one, wanted in zip(found, expected, strict=True):
            check_same(one, wanted)
        # As it was sent, a state is what came before it.
        states = [json.loads(text).get("policy_state") for _, text in found]
        assert crowd.batches()[0] <= before[0] + 6
    crowd.close()


def test_they_are_one_batch_and_a_client_that_has_left_harms_nobody(server: RunningServer) -> None:
    draw = random.Random(0)
    crowd = Crowd(server, "cartpole", four(draw))
    before = crowd.batches()
    sent = [body({"observation": four(draw)}) for _ in range(CLIENTS)]
    expected = [crowd.ask_alone(one) for one in sent]
    between = crowd.batches()
    assert between == (before[0] + CLIENTS, before[1] + CLIENTS)
    for found, wanted in zip(crowd.ask(sent), expected, strict=True):
        check_same(found, wanted)
    # A stopped worker may go on between two requests.
    after = crowd.batches()
    assert after[1] == between[1] + CLIENTS
    assert after[0] <= between[0] + 3
    left = crowd.connections[3]
    for found, wanted in zip(crowd.ask(sent, left.socket.close), expected[:3] + expected[4:], strict=True):
        check_same(found, wanted)
    crowd.close()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Policies that refuse some inputs, or whose rows depend on each other."""
    folder = tmp_path_factory.mktemp("odd")
    made: dict[str, Path] = {"ids": folder / "ids", "asserts": folder / "asserts", "centered": folder / "centered"}
    made["long"] = folder / "long"
    PolicySaver(demanding.MAKERS["some ids"]()).save(made["ids"])
    PolicySaver(demanding.MAKERS["asserts"]()).save(made["asserts"])
    PolicySaver(dependent.CenteredOverTheBatch()).save(made["centered"])
    numbers = tf.TensorSpec((LONG,), tf.float32, "observation")
    PolicySaver(demanding.Demanding(numbers, lambda weight, all_, _: tf.reduce_mean(all_, -1) * weight)).save(
        made["long"]
    )
    with serving(made) as server:
        yield server


@pytest.mark.parametrize(("policy", "good", "refused"), [("ids", 0, 1), ("asserts", 3.0, 1.0)])
def test_an_input_that_the_policy_refuses_is_refused_alone(
    odd: RunningServer, policy: str, good: float, refused: float
) -> None:
    crowd = Crowd(odd, policy, good)
    for places in ([], [0], [4, 9], range(CLIENTS)):
        sent = [body({"observation": refused if place in places else good}) for place in range(CLIENTS)]
        found = crowd.ask(sent)
        assert [b" 422 " in head for head, _ in found] == [place in places for place in range(CLIENTS)]
        for answer, one in zip(found, sent, strict=True):
            check_same(answer, crowd.ask_alone(one))
    crowd.close()


def test_long_bodies_are_gathered_and_read_as_by_themselves(odd: RunningServer) -> None:
    draw = random.Random(1)

    def numbers() -> list[float]:
        return [round(draw.uniform(-1, 1), draw.randint(1, 9)) for _ in range(LONG)]

    crowd = Crowd(odd, "long", numbers())
    for unusual_ones in (0, 1, 5, CLIENTS):
        sent = [body({"observation": numbers()}) for _ in range(CLIENTS)]
        for place in draw.sample(range(CLIENTS), unusual_ones):
            one = numbers()
            odd_ones: list[Any] = [
                {"observation": one[1:]},
                {"observation": [*one[1:], 1e39]},
                {"observation": [one, one]},
            ]
            sent[place] = body(draw.choice([*odd_ones, {"observation": one, "reward": 1.0}, body(one)[:-1]]))
        expected = [crowd.ask_alone(one) for one in sent]
        before, found = crowd.batches(), crowd.ask(sent)
        for one, wanted in zip(found, expected, strict=True):
            check_same(one, wanted)
        assert unusual_ones or crowd.batches()[0] <= before[0] + 3
    crowd.close()


def test_rows_that_depend_on_each_other_share_no_call(odd: RunningServer) -> None:
    """Centered over a batch of one, every action is zero."""
    draw = random.Random(0)
    crowd = Crowd(odd, "centered", four(draw))
    for _ in range(5):
        found = crowd.ask([body({"observation": four(draw)}) for _ in range(CLIENTS)])
        assert all(json.loads(text)["action"] == [0.0, 0.0] for _, text in found), found
    crowd.close()


def test_policies_that_are_read_alike_answer_each_with_its_own_weights(tmp_path: Path, full: bool) -> None:
    """And while they change: an answer has the number of the version that it names."""
    first = NumberTrainer(tmp_path / "league-0")
    trainers = [first, *(first.copied(tmp_path / f"league-{place}") for place in range(1, 5))]
    names = [trainer.folder.name for trainer in trainers]
    numbers = dict.fromkeys(names, 0)
    draw = random.Random(7)
    with serving({name: tmp_path / name for name in names}, "--no-watch") as server:
        crowd = Crowd(server, names[0], four(draw))
        for number in range(1, 200 if full else 13):
            asked = draw.choices(names, k=CLIENTS)
            rows = [draw.randrange(1000) for _ in asked]
            sent = [body({"observation": [row, 0, 0, 0]}) for row in rows]
            for place in draw.sample(range(CLIENTS), draw.choice([0, 0, 3])):
                sent[place] = unusual(draw)
            found = crowd.ask(sent, policies=asked)
            for (head, text), policy, row, one in zip(found, asked, rows, sent, strict=True):
                if one != body({"observation": [row, 0, 0, 0]}):
                    continue
                assert b" 200 " in head.split(b"\r\n")[0]
                answer = json.loads(text)
                assert answer["action"] == [1000 * numbers[policy] + row] * 2, (answer, policy)
                assert answer["train_step"] == numbers[policy]
            changed = number % len(names)
            trainers[changed].publish(number)
            answer = server.reload(names[changed])
            assert answer.status_code == 200, answer.text
            numbers[names[changed]] = number
        crowd.close()
