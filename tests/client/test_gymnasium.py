"""What a session is sent of vector environments, for both ways of resetting them."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from policy_client import RemotePolicy, Retries, Unavailable
from policy_client.gymnasium import FIRST, LAST, MID, TimeSteps, VectorPolicy, autoreset_mode
from tests.support.scripted_server import Drop, Scripted, said, scripted

# Row by row: at which step of the script its episodes terminate, and at which they are truncated.
LENGTHS = {0: ("terminated", 2), 1: ("truncated", 3), 2: ("terminated", 100)}


class Counting(gymnasium.Env[Any, Any]):
    """Its observation is [which environment, which episode, which step of it]; its reward 10 + the step."""

    observation_space = gymnasium.spaces.Box(0, 1000, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(1000)

    def __init__(self, number: int) -> None:
        self.number = number
        self.episode = -1
        self.actions: list[int] = []

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        self.episode += 1
        self.at = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        self.actions.append(int(action))
        how, length = LENGTHS[self.number]
        over = self.at == length
        return self._seen(), 10 + self.at, over and how == "terminated", over and how == "truncated", {}

    def _seen(self) -> Any:
        return np.array([self.number, self.episode, self.at], np.float32)


def environments(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([lambda number=number: Counting(number) for number in LENGTHS], autoreset_mode=mode)


def answers(count: int) -> list[Any]:
    actions = [{"dtype": "int64", "shape": [3], "data": np.full(3, step, np.int64).tobytes()} for step in range(count)]
    return [said(step=step, action=action) for step, action in enumerate(actions)]


def sent(script: Scripted) -> list[dict[str, Any]]:
    """The fields of every request with arrays as lists, and what the server takes for granted."""
    sent = [{key: _listed(value) for key, value in asked.fields.items()} for asked in script.asked if asked.body]
    return [{"step_type": [MID] * 3, "discount": [1] * 3} | fields for fields in sent]


def _listed(value: Any) -> Any:
    if isinstance(value, dict) and "data" in value:
        return np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"]).tolist()
    return value


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_row_is_first_exactly_where_its_observation_begins_an_episode(mode: AutoresetMode) -> None:
    with scripted(*answers(12)) as script, RemotePolicy(script.url, "cartpole") as policy:
        played = VectorPolicy(policy, environments(mode))
        for _ in range(12):
            played.step()
    begin, *steps = sent(script)
    assert begin["observation"] == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    seen = [[at == 0 for _, _, at in fields["observation"]] for fields in steps]
    assert [[kind == FIRST for kind in fields["step_type"]] for fields in steps] == seen
    assert sum(map(sum, seen)) >= 5


def test_with_next_step_resets_the_policy_sees_the_last_observations_too() -> None:
    with scripted(*answers(6)) as script, RemotePolicy(script.url, "cartpole") as policy:
        played = VectorPolicy(policy, environments(AutoresetMode.NEXT_STEP))
        transitions = [played.step() for _ in range(6)]
    _, one, two, three, four, five = sent(script)
    assert (one["reward"], one["discount"]) == ([11, 11, 11], [1, 1, 1])
    assert one["step_type"] == [MID, MID, MID]
    assert (two["step_type"], two["discount"], two["reward"]) == ([LAST, MID, MID], [0, 1, 1], [12, 12, 12])
    assert three["step_type"] == [FIRST, LAST, MID]
    assert (three["discount"], three["reward"]) == ([1, 1, 1], [0, 13, 13])  # truncated: the discount stays 1
    assert (four["step_type"], four["reward"]) == ([MID, FIRST, MID], [11, 0, 14])
    assert five["step_type"] == [LAST, MID, MID]
    ignored = [transition.ignored.tolist() for transition in transitions]
    assert ignored == [[False] * 3] * 2 + [[True, False, False], [False, True, False]] + [
        [False] * 3,
        [True, False, False],
    ]
    assert [transition.ended.tolist()[:2] for transition in transitions[1:3]] == [[True, False], [False, True]]


def test_with_same_step_resets_an_episode_begins_where_another_ended() -> None:
    with scripted(*answers(4)) as script, RemotePolicy(script.url, "cartpole") as policy:
        played = VectorPolicy(policy, environments(AutoresetMode.SAME_STEP))
        transitions = [played.step() for _ in range(4)]
    _, one, two, three = sent(script)
    assert one["step_type"] == [MID, MID, MID]
    assert two["step_type"] == [FIRST, MID, MID]
    assert (two["discount"], two["reward"]) == ([1, 1, 1], [0, 12, 12])
    assert three["step_type"] == [MID, FIRST, MID]
    assert not any(transition.ignored.any() for transition in transitions)
    assert transitions[1].reward.tolist() == [12, 12, 12]  # what the environment gave is there
    assert transitions[1].info["final_obs"][0].tolist() == [0, 0, 2]
    assert transitions[1].next_observation.tolist()[0] == [0, 1, 0]


def test_a_transition_holds_what_belongs_together() -> None:
    envs = environments(AutoresetMode.NEXT_STEP)
    with scripted(*answers(3)) as script, RemotePolicy(script.url, "cartpole") as policy:
        played = VectorPolicy(policy, envs, seed=7, id="vector")
        transitions = [played.step() for _ in range(3)]
    assert [transition.answer.step for transition in transitions] == [0, 1, 2]
    assert [transition.answer.action.tolist() for transition in transitions] == [[0] * 3, [1] * 3, [2] * 3]
    for before, after in itertools.pairwise(transitions):
        np.testing.assert_array_equal(before.next_observation, after.observation)
    assert envs.envs[2].actions == [0, 1, 2]
    assert (script.asked[0].fields["id"], script.asked[0].fields["options"]) == ("vector", {"seed": 7})


def test_environments_do_not_move_while_there_is_no_answer() -> None:
    first, second, third = answers(3)
    once = Retries(limit=0)
    with scripted(first, Drop(), second, third) as script, RemotePolicy(script.url, "cartpole", retries=once) as policy:
        played = VectorPolicy(policy, environments(AutoresetMode.NEXT_STEP))
        played.step()
        with pytest.raises(Unavailable):
            played.step()
        assert played.step().observation[2].tolist() == [2, 0, 1]
        assert played.step().observation[2].tolist() == [2, 0, 2]
    steps = sent(script)[1:]
    assert [fields["step"] for fields in steps] == [1, 1, 2]
    assert steps[0] == steps[1]


def test_the_session_ends_with_the_block() -> None:
    with scripted(*answers(1)) as script, RemotePolicy(script.url, "cartpole", retries=Retries(limit=0)) as policy:
        script.acts.append(said())
        with VectorPolicy(policy, environments(AutoresetMode.NEXT_STEP), id="vector", run_id="r") as played:
            played.step()
    assert (script.asked[-1].method, script.asked[-1].path) == (
        "DELETE",
        "/v1/policies/cartpole/sessions/vector?run_id=r",
    )


def test_what_is_terminated_and_truncated_at_once_is_terminated() -> None:
    fields = TimeSteps(2, AutoresetMode.NEXT_STEP).fields(np.ones(2), np.array([True, False]), np.array([True, True]))
    assert np.asarray(fields["discount"]).tolist() == [0, 1]
    assert np.asarray(fields["step_type"]).tolist() == [LAST, LAST]


def test_actions_of_tuples_and_dicts_reach_the_environments() -> None:
    class Wide(Counting):
        action_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
            {"a": gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(9), gymnasium.spaces.Box(-1, 1, (2,), np.float32)])}
        )

        def step(self, action: Any) -> Any:
            self.last = action
            return super().step(action["a"][0])

    envs = SyncVectorEnv([lambda number=number: Wide(number) for number in range(2)])
    push = {"dtype": "float32", "shape": [2, 2], "data": np.float32([[0, 1], [0.5, -1]]).tobytes()}
    choice = {"dtype": "int64", "shape": [2], "data": np.array([3, 4]).tobytes()}
    with scripted(said(step=0, action={"a": [choice, push]})) as script, RemotePolicy(script.url, "cartpole") as policy:
        VectorPolicy(policy, envs).step()
    assert envs.envs[1].last["a"][0] == 4
    assert envs.envs[1].last["a"][1].tolist() == [0.5, -1]


def test_environments_that_wait_to_be_reset_are_refused() -> None:
    with pytest.raises(ValueError, match="autoreset_mode DISABLED; expected NEXT_STEP or SAME_STEP"):
        autoreset_mode(environments(AutoresetMode.DISABLED))
    envs = environments(AutoresetMode.SAME_STEP)
    assert autoreset_mode(envs) is AutoresetMode.SAME_STEP
    envs.metadata = {}
    assert autoreset_mode(envs) is AutoresetMode.NEXT_STEP
