"""Where the seeds in an export come from: `PolicySaver(seed=…)`, a policy's own code, or `tf.random.set_seed`."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import epsilon_greedy_policy, gaussian_policy, policy_saver, tf_policy
from tf_agents.trajectories import policy_step, time_step

from saver import PolicySaver
from saver.impure_ops import seed_of
from tests.support import saver_policies as policies


@pytest.fixture(autouse=True)
def no_seed_is_left() -> Iterator[None]:
    yield
    tf.random.set_seed(None)


def exploring() -> tf_policy.TFPolicy:
    """Draws twice."""
    return epsilon_greedy_policy.EpsilonGreedyPolicy(policies.q(), 0.3)


class Drawing(tf_policy.TFPolicy):
    """Draws by code of its own, from these seeds, one after the other."""

    def __init__(self, *seeds: int | None) -> None:
        super().__init__(time_step.time_step_spec(policies.CARTPOLE), policies.NESTED_ACTION["move"])
        self._seeds = seeds

    def _variables(self) -> list[tf.Variable]:
        return []

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        rows = tf.shape(time_step.reward)[0]
        return policy_step.PolicyStep(tf.add_n([tf.random.uniform([rows, 2], -0.1, 0.1, seed=s) for s in self._seeds]))

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def seed_in(policy: tf_policy.TFPolicy, **options: Any) -> str | None:
    return seed_of(PolicySaver(policy, **options).signatures["action"].get_concrete_function())


@pytest.mark.parametrize("global_seed", [0, 1, 7, 2**31 - 1, 2**40])
@pytest.mark.parametrize("make", [policies.q, exploring, policies.random, lambda: Drawing(None, None, None)])
def test_a_seed_of_the_program_differs_from_one_that_was_given(make: Callable[[], Any], global_seed: int) -> None:
    assert seed_in(make()) is None
    tf.random.set_seed(global_seed)
    assert seed_in(make()) == "global"


@pytest.mark.parametrize("global_seed", [None, 0, 1, 7])
@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize("make", [policies.q, exploring])
def test_a_seed_that_was_given_is_known_whatever_the_program_has(make, seed, global_seed) -> None:
    tf.random.set_seed(global_seed)
    assert seed_in(make(), seed=seed) == "own"


@pytest.mark.parametrize("global_seed", [None, 1])
@pytest.mark.parametrize("seeds", [(3,), (None, 9), (42, None, None), (7, 7)])
def test_a_seed_in_the_policys_own_code_was_given_too(seeds, global_seed) -> None:
    tf.random.set_seed(global_seed)
    assert seed_in(Drawing(*seeds)) == "own"


def test_what_draws_nothing_has_no_seed() -> None:
    tf.random.set_seed(1)
    assert seed_in(policies.NestedPolicy()) is None


def test_an_export_with_a_seed_replays_its_sequence_as_tf_agents_own_does(tmp_path) -> None:
    policy = policies.q()
    tf.random.set_seed(3)
    PolicySaver(policy, seed=5).save(tmp_path / "ours")
    policy_saver.PolicySaver(policy, seed=5).save(str(tmp_path / "theirs"))
    drawn = []
    for folder in ("ours", "theirs", "ours/serving", "ours"):
        action = tf.saved_model.load(str(tmp_path / folder)).signatures["action"]
        rows = {s.name: tf.zeros([64, *s.shape[1:]], s.dtype) for s in action.structured_input_signature[1].values()}
        drawn.append([action(**rows)["action"].numpy() for _ in range(3)])
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
    assert len({row.tobytes() for row in drawn[0]}) == 3


def said(caplog: pytest.LogCaptureFixture, saver: PolicySaver, folder: Any) -> str:
    with caplog.at_level(logging.WARNING, "policy_saver"):
        saver.save(folder, verify=False)
    return caplog.text


def test_saving_says_that_a_given_seed_comes_again(tmp_path, caplog) -> None:
    assert "action draws from a seed that was given" in said(caplog, PolicySaver(policies.q(), seed=5), tmp_path / "p")


def test_saving_says_that_a_seed_of_the_program_comes_again_where_there_is_no_sample(tmp_path, caplog) -> None:
    tf.random.set_seed(1)
    noisy = gaussian_policy.GaussianPolicy(Drawing(None), 0.1)
    assert "action draws from tf.random.set_seed" in (text := said(caplog, PolicySaver(noisy), tmp_path / "p"))
    assert "no sample: the policy draws the same numbers for all rows" in text


def test_saving_says_nothing_of_a_seed_of_the_program_where_there_is_a_sample(tmp_path, caplog) -> None:
    tf.random.set_seed(1)
    assert said(caplog, PolicySaver(policies.q()), tmp_path / "p") == ""
