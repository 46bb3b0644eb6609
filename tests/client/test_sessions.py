"""The clients' sessions on a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from policy_client import Conflict, DoesNotFit, NotFound, RemotePolicy, Unavailable
from policy_client.gymnasium import VectorPolicy
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

Connect = Callable[..., Any]
RANDOM = np.random.default_rng(21)
EPISODE = RANDOM.normal(size=(12, 3, 4)).astype(np.float32)


class Losing(httpx.HTTPTransport):
    """A transport that loses the answers of chosen requests after the server has given them."""

    def __init__(self, lost: set[int]) -> None:
        super().__init__()
        self._lost = lost
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.sent += 1
        if self.sent - 1 in self._lost:
            response.read()
            raise httpx.ReadError("the answer was lost")
        return response


@pytest.mark.parametrize("policy", ["recurrent", "cartpole"])
def test_a_session_answers_as_calls_that_carry_the_state(server: RunningServer, connect: Connect, policy: str) -> None:
    remote = connect(server.url, policy)
    state = None
    with remote.session(EPISODE[0]) as session:
        for step, observation in enumerate(EPISODE):
            reward = np.full(3, 0.5, np.float32)
            kind = np.full(3, min(step, 1), np.int32)
            carried = remote.action(observation, policy_state=state, reward=reward, step_type=kind)
            state = carried.policy_state
            answer = session.step(observation, reward=reward) if step else session.answer
            np.testing.assert_array_equal(answer.action, carried.action)
            assert (answer.step, answer.policy_state, answer.version) == (step, None, "export")


def test_one_observation_is_a_session_too(server: RunningServer, connect: Connect) -> None:
    with connect(server.url, "recurrent").session(EPISODE[0, 0]) as session:
        assert session.answer.action.shape == ()
        assert session.step(EPISODE[1, 0]).action.shape == ()
        with pytest.raises(DoesNotFit):
            session.step(EPISODE[1])
        assert session.step(EPISODE[2, 0]).step == 2


def test_rows_that_begin_anew_forget(server: RunningServer, connect: Connect) -> None:
    remote = connect(server.url, "nested")
    nest = {"camera": np.ones((2, 2, 3), np.uint8), "body": (np.ones((2, 3), np.float32), np.ones(2, np.int32))}
    with remote.session(nest) as session:
        fresh = session.answer.action
        session.step(nest)
        mixed = session.step(nest, first=np.array([True, False])).action
        np.testing.assert_array_equal(mixed[0], fresh[0])
        assert not np.array_equal(mixed[1], fresh[1])
        np.testing.assert_array_equal(session.step(nest, first=True).action, fresh)


def test_lost_answers_change_nothing(server: RunningServer) -> None:
    def played(lost: set[int]) -> tuple[list[Any], int]:
        transport = Losing(lost)
        with (
            RemotePolicy(server.url, "recurrent", transport=transport) as policy,
            policy.session(EPISODE[0], id="losing", seed=3, mode="sample") as session,
        ):
            actions = [session.answer.action, *(session.step(observation).action for observation in EPISODE[1:])]
            assert session.describe()["step"] == len(EPISODE) - 1
        return actions, transport.sent

    calm, sent = played(set())
    stormy, sent_again = played({0, 2, 3, 7, sent + 3})  # the last of these is the ending
    np.testing.assert_array_equal(calm, stormy)
    assert sent_again == sent + 5
    assert server.http.get("/v1/policies/recurrent/sessions/losing").status_code == 404


def test_a_seed_replays_a_session(server: RunningServer, connect: Connect) -> None:
    def played(seed: int) -> np.ndarray:
        with connect(server.url, "continuous").session(EPISODE[0], seed=seed, log_prob=True) as session:
            answers = [session.answer, *(session.step(observation) for observation in EPISODE[1:])]
        assert all(answer.log_prob.shape == (3,) for answer in answers)
        return np.stack([answer.action for answer in answers])

    np.testing.assert_array_equal(played(7), played(7))
    assert not np.array_equal(played(7), played(8))


def test_a_simulator_that_starts_again_takes_its_session_over(server: RunningServer, connect: Connect) -> None:
    remote = connect(server.url, "recurrent")
    old = remote.session(EPISODE[0], id="env-7")
    old.step(EPISODE[1])
    with remote.session(EPISODE[0], id="env-7") as new:
        assert (new.answer.step, new.run_id != old.run_id) == (0, True)
        for call in (lambda: old.step(EPISODE[2]), old.close):
            with pytest.raises(Conflict, match="another run"):
                call()
        assert new.step(EPISODE[1]).step == 1


def test_a_session_that_has_ended_is_not_found(server: RunningServer, connect: Connect) -> None:
    session = connect(server.url).session(EPISODE[0])
    session.close()
    session.close()
    with pytest.raises(NotFound, match="no session"):
        session.step(EPISODE[1])


def test_sessions_of_the_default_policy(server: RunningServer, connect: Connect) -> None:
    with connect(server.url, None).session(EPISODE[0], run_id="run 1&2/ü") as session:
        assert session.step(EPISODE[1]).step == 1
        assert session.describe()["rows"] == 3


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, NumberTrainer]]:
    """A server with one policy whose weights tests may change, with room for two sessions."""
    folder: Path = tmp_path_factory.mktemp("swapping")
    trainer = NumberTrainer(folder / "number")
    with serving({"number": trainer.folder}, "--no-watch", "--sessions-limit", "2", prepared=True) as running:
        yield running, trainer


def test_each_answer_names_its_weights(swapping: tuple[RunningServer, NumberTrainer], connect: Connect) -> None:
    server, trainer = swapping
    remote = connect(server.url, "number")
    server.reload("number", checkpoint="export").raise_for_status()
    with remote.session(EPISODE[0]) as latest, remote.session(EPISODE[0], weights="episode") as episode:
        assert latest.answer.version == episode.answer.version == "export"
        name = trainer.publish(5)
        server.reload("number", checkpoint=name).raise_for_status()
        assert (latest.step(EPISODE[1]).version, latest.answer.train_step) == (name, 5)
        assert episode.step(EPISODE[1]).version == "export"


def test_no_room_for_one_more_session_is_unavailable(
    swapping: tuple[RunningServer, NumberTrainer], connect: Connect
) -> None:
    remote = connect(swapping[0].url, "number")
    with remote.session(EPISODE[0]), remote.session(EPISODE[0]), pytest.raises(Unavailable, match="sessions") as raised:
        remote.session(EPISODE[0])
    assert raised.value.status == 429
    with remote.session(EPISODE[0]):
        pass


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_of_environments_gets_the_actions_that_each_episode_alone_gets(
    server: RunningServer, mode: AutoresetMode
) -> None:
    envs = gymnasium.make_vec("CartPole-v1", 3, "sync", vector_kwargs={"autoreset_mode": mode})
    with RemotePolicy(server.url, "recurrent") as policy:
        with VectorPolicy(policy, envs, reset_seed=3) as played:
            transitions = [played.step() for _ in range(60)]
        envs.close()
        ends = np.stack([transition.ended for transition in transitions])
        assert ends.sum() >= 3
        state = None
        for step, transition in enumerate(transitions):
            first = np.full(3, step == 0)
            if step:
                ended = transitions[step - 1].ended
                first = ended if mode is AutoresetMode.SAME_STEP else transitions[step - 1].ignored
            fresh = policy.get_initial_state(3)
            rows = first[:, None]
            state = (
                fresh if state is None else [np.where(rows, new, old) for new, old in zip(fresh, state, strict=True)]
            )
            kind = np.where(first, 0, 1).astype(np.int32)
            answer = policy.action(transition.observation, policy_state=state, step_type=kind)
            state = answer.policy_state
            np.testing.assert_array_equal(transition.answer.action, answer.action)
