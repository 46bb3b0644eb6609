"""The serving functions of a policy, looked at one by one. The zoo holds them to every kind of policy."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.distributions import reparameterized_sampling
from tf_agents.policies import epsilon_greedy_policy, greedy_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from saver.artifact import SERVING_FOLDER, Noise, read_policy_manifest
from tests.support import saver_policies as policies

tfd = tfp.distributions
ROWS = 6
WIDE = tensor_spec.BoundedTensorSpec([2], tf.float32, -1.0, 1.0, "action")


class Gaussian(tf_policy.TFPolicy):
    """Normal actions around the first two observations; `noisy` adds a draw of its own to its distribution."""

    def __init__(self, spec=WIDE, scale=3.0, noisy=False, **options):
        super().__init__(ts.time_step_spec(policies.CARTPOLE), spec, **options)
        self._scale = tf.Variable(scale)
        self._noisy = noisy

    def _variables(self):
        return [self._scale]

    def _distribution(self, time_step, policy_state):
        loc = time_step.observation[:, :2]
        if self._noisy:
            loc += tf.random.normal([2])
        scale = self._scale * tf.ones_like(loc)
        return policy_step.PolicyStep(tfd.MultivariateNormalDiag(loc, scale), policy_state, ())


def served(policy, folder, **options):
    """The manifest of its serving/ folder, and its functions by flattened names."""
    saver = PolicySaver(policy, **options)
    saver.save(folder, verify=False)  # for time: the zoo and test_verify.py look at that
    manifest = read_policy_manifest(folder)
    return manifest.serving, tf.saved_model.load(str(folder / SERVING_FOLDER)).signatures


def inputs(rows=ROWS, **more):
    observation = np.random.default_rng(0).uniform(-1, 1, (rows, 4)).astype(np.float32)
    return {
        "arg_0_step_type": tf.ones([rows], tf.int32),
        "arg_0_reward": tf.zeros([rows]),
        "arg_0_discount": tf.ones([rows]),
        "arg_0_observation": tf.constant(observation),
        **more,
    }


def test_sample_is_a_function_of_its_noise(tmp_path):
    serving, functions = served(policies.q(), tmp_path / "q")
    assert serving.noise == Noise(uniform=2, normal=0)
    noise = tf.random.uniform([ROWS, 2], seed=1)
    first, second = (functions["sample"](**inputs(noise_uniform=noise)) for _ in range(2))
    np.testing.assert_array_equal(first["action"], second["action"])
    actions = [functions["sample"](**inputs(noise_uniform=tf.random.uniform([ROWS, 2])))["action"] for _ in range(20)]
    assert len(np.unique(actions, axis=0)) > 1


def test_row_of_a_sample_depends_on_its_own_noise_alone(tmp_path):
    _, functions = served(Gaussian(), tmp_path / "p")
    noise = np.random.default_rng(1).normal(size=(ROWS, 2)).astype(np.float32)
    other = noise.copy()
    other[1:] += 1
    first = functions["sample"](**inputs(noise_normal=noise))["action"]
    second = functions["sample"](**inputs(noise_normal=other))["action"]
    np.testing.assert_array_equal(first[0], second[0])
    assert (np.asarray(first) != np.asarray(second))[1:].any()


def test_an_excluded_category_is_never_drawn_however_extreme_the_noise(tmp_path):
    mask = tf.TensorSpec([3], tf.int32, "mask")

    class Masked(tf_policy.TFPolicy):
        def __init__(self):
            super().__init__(ts.time_step_spec(mask), tensor_spec.BoundedTensorSpec([], tf.int32, 0, 2, "action"))

        def _distribution(self, time_step, policy_state):
            logits = tf.where(time_step.observation > 0, 0.0, tf.float32.min)
            return policy_step.PolicyStep(tfd.Categorical(logits), policy_state, ())

    _, functions = served(Masked(), tmp_path / "masked")
    for extreme in (0.0, 1.0, 2.0**-24, 1 - 2.0**-24, 0.5):
        for allowed in range(3):
            noise = np.full((1, 3), 0.5, np.float32)
            noise[0, allowed] = 1.0 - extreme
            noise[0, (allowed + 1) % 3] = extreme
            answer = functions["sample"](
                arg_0_step_type=[1],
                arg_0_reward=[0.0],
                arg_0_discount=[1.0],
                arg_0_observation=tf.one_hot([allowed], 3, dtype=tf.int32),
                noise_uniform=noise,
            )
            assert answer["action"].numpy() == [allowed]


def test_log_prob_is_joint_and_of_the_clipped_action(tmp_path):
    policy = Gaussian(clip=True)
    _, functions = served(policy, tmp_path / "p")
    noise = np.random.default_rng(1).normal(size=(ROWS, 2)).astype(np.float32)
    answer = functions["sample"](**inputs(noise_normal=noise))
    assert (np.abs(answer["action"]) == 1).any(), "nothing was clipped"
    live = tfd.MultivariateNormalDiag(inputs()["arg_0_observation"][:, :2], [3.0, 3.0])
    np.testing.assert_allclose(answer["log_prob"], live.log_prob(answer["action"]), rtol=1e-5)
    given = functions["log_prob"](**inputs(action=answer["action"]))
    np.testing.assert_allclose(given["log_prob"], answer["log_prob"], rtol=1e-5)


def test_parts_of_a_nested_action_add_up(tmp_path):
    spec = {"move": WIDE, "turn": tensor_spec.BoundedTensorSpec([2], tf.int32, 0, 2, "turn")}

    class Both(tf_policy.TFPolicy):
        def __init__(self):
            super().__init__(ts.time_step_spec(policies.CARTPOLE), spec, clip=False)

        def _distribution(self, time_step, policy_state):
            loc = time_step.observation[:, :2]
            both = {"move": tfd.Normal(loc, 0.5), "turn": tfd.Categorical(tf.stack([loc, loc * 2, -loc], -1))}
            return policy_step.PolicyStep(both, policy_state, ())

    policy = Both()
    serving, functions = served(policy, tmp_path / "both")
    assert serving.noise == Noise(uniform=6, normal=2)
    assert {name: info.family for name, info in serving.distributions.items()} == {
        "action/move": "normal",
        "action/turn": "categorical",
    }
    rng = np.random.default_rng(1)
    noise = {
        "noise_uniform": rng.uniform(0.01, 0.99, (ROWS, 6)).astype(np.float32),
        "noise_normal": rng.normal(size=(ROWS, 2)).astype(np.float32),
    }
    answer = functions["sample"](**inputs(**noise))
    live = policy.distribution(ts.restart(inputs()["arg_0_observation"], ROWS)).action
    expected = sum(tf.reduce_sum(live[key].log_prob(answer[f"action/{key}"]), 1) for key in spec)
    np.testing.assert_allclose(answer["log_prob"], expected, rtol=1e-5)
    described = functions["distribution"](**inputs())
    assert described["action/turn/entropy"].shape == (ROWS,)


def test_info_of_a_sample_gives_its_own_log_probability(tmp_path):
    info = policy_step.PolicyInfo(log_probability=tf.TensorSpec([], tf.float32, "log_probability"))
    serving, functions = served(WithInfo(clip=False, emit_log_probability=True, info_spec=info), tmp_path / "p")
    answer = functions["sample"](**inputs(noise_normal=np.ones((ROWS, 2), np.float32)))
    np.testing.assert_allclose(answer["info/log_probability"], answer["log_prob"], rtol=1e-5)
    assert "info/log_probability" not in serving.signatures["distribution"].outputs


class WithInfo(Gaussian):
    """The same with room for the log-probability in its info."""

    def _distribution(self, time_step, policy_state):
        step = super()._distribution(time_step, policy_state)
        return step._replace(info=policy_step.PolicyInfo(log_probability=()))


def test_a_distribution_that_is_itself_random_is_marked_and_neither_greedy_nor_sampled(tmp_path):
    serving, functions = served(Gaussian(noisy=True), tmp_path / "p")
    assert serving.distributions["action"].details == {"random": True}
    assert set(functions) >= {"action", "distribution"}
    assert set(serving.unavailable) == {"greedy", "sample", "log_prob"}
    assert "random" in serving.unavailable["greedy"]


def test_greedy_leaves_exploration_out(tmp_path):
    explorer = epsilon_greedy_policy.EpsilonGreedyPolicy(policies.q(), epsilon=1.0)
    serving, functions = served(explorer, tmp_path / "p")
    step = greedy_policy.GreedyPolicy(explorer.wrapped_policy).action(ts.restart(inputs()["arg_0_observation"], ROWS))
    np.testing.assert_array_equal(functions["greedy"](**inputs())["action"], step.action)
    noise = tf.random.uniform([ROWS, serving.noise.uniform])
    drawn = functions["sample"](**inputs(noise_uniform=noise))["action"]
    assert (drawn.numpy() != step.action.numpy()).any()


def test_policies_draw_as_ever_after_and_during_an_export_in_another_thread(tmp_path):
    before = reparameterized_sampling.sample, tfd.Distribution.sample, tf.random.uniform
    policy = Gaussian()
    steps = ts.restart(inputs()["arg_0_observation"], ROWS)
    stop, failures = threading.Event(), []

    def collect():
        while not stop.is_set():
            try:
                policy.action(steps)
            except Exception as error:
                failures.append(error)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        savers = [threading.Thread(target=PolicySaver(policies.q()).save, args=(tmp_path / str(i),)) for i in range(2)]
        for saver in savers:
            saver.start()
        for saver in savers:
            saver.join()
    finally:
        stop.set()
        collector.join()
    assert failures == []
    assert (reparameterized_sampling.sample, tfd.Distribution.sample, tf.random.uniform) == before
    assert all(read_policy_manifest(tmp_path / str(i)).serving.unavailable == {} for i in range(2))


@pytest.mark.parametrize("name", ["q", "recurrent", "nested", "no nest paths", "fixed batch", "input_fn", "random"])
def test_a_checkpoint_restores_into_serving_as_into_the_full_export(saved, name, tmp_path):
    saver, folder = saved.saver(name), saved.folder(name)
    if not saver.policy.model_variables:
        return
    saver.save_checkpoint(tmp_path / "checkpoint")
    model = tf.saved_model.load(str(folder / SERVING_FOLDER))
    prefix = str(tmp_path / "checkpoint" / "variables" / "variables")
    tf.train.Checkpoint(policy=model).read(prefix).assert_consumed()


def test_metadata_of_one_dtype_keep_their_names(tmp_path):
    metadata = {"a": tf.Variable(1), "b": tf.Variable(2), "c": tf.Variable("x")}
    _, functions = served(policies.q(), tmp_path / "q", metadata=metadata, train_step=tf.Variable(7))
    assert {name: value.numpy() for name, value in functions["get_metadata"]().items()} == {"a": 1, "b": 2, "c": b"x"}
    assert functions["get_train_step"]()["train_step"].numpy() == 7


# Found by an attack


def test_saving_leaves_no_given_noise_in_the_live_policys_own_functions(tmp_path):
    """A policy that wraps its `action` into a function of its own: what is traced into that stays there."""
    policy = Gaussian()
    policy.action = tf.function(policy.action)
    serving, _ = served(policy, tmp_path / "p", seed=7)
    steps = ts.restart(inputs()["arg_0_observation"], ROWS)
    drawn = [policy.action(steps).action.numpy() for _ in range(3)]
    assert len(np.unique(drawn, axis=0)) == 3
    assert "sample" in serving.unavailable


def test_draws_in_a_loop_are_refused_since_each_would_get_the_same_noise(tmp_path):
    class Looping(Gaussian):
        def _action(self, time_step, policy_state, seed=None):
            columns = tf.transpose(time_step.observation[:, :2])
            drawn = tf.map_fn(lambda loc: reparameterized_sampling.sample(tfd.Normal(loc, 1.0)), columns)
            return policy_step.PolicyStep(tf.transpose(drawn), policy_state, ())

    serving, _ = served(Looping(), tmp_path / "p")
    assert "inside a loop" in serving.unavailable["sample"]
    tf.compat.v1.get_variable("made_afterwards", [1])  # TensorFlow's variable scope is as it was


class Flipped(tf_policy.TFPolicy):
    """Answers the opposite of what the policy inside draws, and has no distribution."""

    def __init__(self, inside):
        super().__init__(inside.time_step_spec, inside.action_spec, inside.policy_state_spec, inside.info_spec)
        self._inside = inside

    def _variables(self):
        return self._inside.variables()

    def _action(self, time_step, policy_state, seed=None):
        step = self._inside.action(time_step, policy_state, seed)
        return step._replace(action=tf.nest.map_structure(lambda action: 1 - action, step.action))

    def _distribution(self, time_step, policy_state):
        raise NotImplementedError


def test_a_wrapper_that_changes_the_draw_has_no_log_probability(tmp_path):
    serving, functions = served(Flipped(policies.q()), tmp_path / "p")
    assert "sample" in functions
    assert "log_prob" not in serving.signatures["sample"].outputs
    assert serving.unavailable["greedy"] == "greedy needs the policy's distribution, and Flipped has none"


def test_an_output_named_log_prob_keeps_its_name(tmp_path):
    class Named(Gaussian):
        def __init__(self):
            super().__init__(info_spec={"own": tf.TensorSpec([3], tf.float32, "log_prob")})

        def _distribution(self, time_step, policy_state):
            step = super()._distribution(time_step, policy_state)
            return step._replace(info={"own": tf.zeros([tf.shape(time_step.reward)[0], 3])})

    serving, functions = served(Named(), tmp_path / "p", use_nest_path_signatures=False)
    assert "'log_prob' already" in serving.unavailable["log_prob"]
    assert serving.signatures["sample"].outputs["log_prob"].shape == (None, 3)
    assert "sample" in functions


def test_a_random_initial_state_cannot_be_replayed(tmp_path):
    class Started(Gaussian):
        def __init__(self):
            super().__init__(policy_state_spec=tf.TensorSpec([2], tf.float32, "state"), automatic_state_reset=False)

        def _get_initial_state(self, batch_size):
            return tf.random.normal([batch_size, 2])

    serving, _ = served(Started(), tmp_path / "p")
    assert serving.unavailable["sample"] == "the policy's initial state is random"


def test_a_nearly_singular_normal_is_sampled_by_its_own_factor(tmp_path):
    factor = np.array([[1, 0], [1, 1e-4]], np.float32)

    class Thin(Gaussian):
        def _distribution(self, time_step, policy_state):
            loc = time_step.observation[:, :2]
            return policy_step.PolicyStep(tfd.MultivariateNormalTriL(loc, factor), policy_state, ())

    _, functions = served(Thin(clip=False), tmp_path / "p")
    np.testing.assert_array_equal(functions["distribution"](**inputs())["action/scale_tril"][0], factor)
    noise = np.ones((ROWS, 2), np.float32)
    expected = inputs()["arg_0_observation"][:, :2] + factor @ noise[0]
    np.testing.assert_allclose(functions["sample"](**inputs(noise_normal=noise))["action"], expected, rtol=1e-5)


def test_leaves_of_several_dtypes_have_a_joint_log_probability(tmp_path):
    spec = {"a": tf.TensorSpec([], tf.float64, "a"), "b": tensor_spec.BoundedTensorSpec([], tf.uint8, 0, 2, "b")}

    class Mixed(tf_policy.TFPolicy):
        def __init__(self):
            super().__init__(ts.time_step_spec(policies.CARTPOLE), spec)

        def _distribution(self, time_step, policy_state):
            x = time_step.observation
            both = {"a": tfd.Normal(tf.cast(x[:, 0], tf.float64), 1.0), "b": tfd.Categorical(x[:, :3], dtype=tf.uint8)}
            return policy_step.PolicyStep(both, policy_state, ())

    serving, functions = served(Mixed(), tmp_path / "p")
    assert serving.unavailable == {}
    noise = {"noise_uniform": np.full((ROWS, 3), 0.5, np.float32), "noise_normal": np.zeros((ROWS, 1), np.float32)}
    answer = functions["sample"](**inputs(**noise))
    x = inputs()["arg_0_observation"]
    chosen = tfd.Categorical(x[:, :3]).log_prob(tf.cast(answer["action/b"], tf.int32))
    np.testing.assert_allclose(answer["log_prob"], chosen - 0.5 * np.log(2 * np.pi), rtol=1e-5)


def test_a_bijector_without_a_flat_form_is_sampled_but_not_described(tmp_path):
    class Powered(Gaussian):
        def _distribution(self, time_step, policy_state):
            base = tfd.Normal(time_step.observation[:, :2], 0.1)
            return policy_step.PolicyStep(tfp.bijectors.SinhArcsinh()(base), policy_state, ())

    serving, functions = served(Powered(clip=False), tmp_path / "p")
    assert "SinhArcsinh" in serving.unavailable["distribution"]
    assert {"sample", "log_prob"} <= set(functions)


def test_weights_of_both_models_are_the_same_bytes_while_another_thread_trains(tmp_path):
    policy = Gaussian()
    stop = threading.Event()

    def train():
        while not stop.wait(1e-4):  # so long as to leave the saver a processor
            policy._scale.assign_add(1e-3)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        PolicySaver(policy).save(tmp_path / "p")
    finally:
        stop.set()
        trainer.join()
    full, serving = (tf.saved_model.load(str(tmp_path / "p" / part)).model_variables for part in ("", SERVING_FOLDER))
    assert [v.numpy() for v in full] == [v.numpy() for v in serving]
