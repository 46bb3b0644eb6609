from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import actor_policy, greedy_policy, q_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from app.builder import compile as compiling
from app.builder.compile import CannotCompile
from app.builder.constant_folding import FoldedConstants
from app.builder.equivalence import check_equivalence
from app.builder.row_comparison import Pair, Unequal
from app.engine.litert import LiteRTEngine
from saver import PolicySaver
from saver.artifact.probe import probe_inputs
from tests.support.compiled import CompiledPolicies, Opened
from tests.zoo.kind import FLOATS, TIME_STEP, actor_net, q_net

KINDS = [
    "dqn-epsilon",
    "dqn-greedy",
    "ppo-greedy",
    "dqn-lstm-greedy",
    "dqn-masked-greedy",
    "observation-image",
    "action-multi-discrete-greedy",
    "export-nested",
    "export-fixed-batch-lstm",
    "export-batch-info",
]


class Own(tf_policy.TFPolicy):
    """A policy of four floats; its action is a float that `answer` makes."""

    def __init__(self, *variables: tf.Variable) -> None:
        super().__init__(ts.time_step_spec(FLOATS), tf.TensorSpec([], tf.float32, "action"))
        self.kept = variables

    def _variables(self) -> list[tf.Variable]:
        return list(self.kept)

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        return policy_step.PolicyStep(self.answer(time_step.observation), policy_state)

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


class Normalised(Own):
    """Batch normalisation before a layer: conversion folds four variables into one constant."""

    def __init__(self) -> None:
        names = ("mean", "variance", "scale", "shift")
        super().__init__(tf.Variable(tf.ones([4, 3])), *(tf.Variable(tf.ones([3]), name=name) for name in names))

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        kernel, mean, variance, scale, shift = self.kept
        normal = tf.nn.batch_normalization(observation @ kernel, mean, variance, shift, scale, 1e-3)
        return tf.reduce_sum(normal, axis=1)


class Counted(Own):
    """Integer variables are in its answer: one as a float, one as it is."""

    def __init__(self) -> None:
        super().__init__(
            tf.Variable(tf.ones([4])), tf.Variable(3, dtype=tf.int64), tf.Variable([0, 1, 2, 0], dtype=tf.int32)
        )

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        weights, count, chosen = self.kept
        index = tf.gather(chosen, tf.cast(observation[:, 0] > 0, tf.int32))
        values = tf.gather(observation, index, batch_dims=1)
        return tf.reduce_sum(observation * weights, axis=1) + values + tf.cast(count, tf.float32)


class Wave(Own):
    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.math.sin(observation), axis=1)


class ShapeOfWave(Own):
    """Only the shape of what LiteRT would work out otherwise is in its answer."""

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        ones = tf.broadcast_to(1.0, tf.shape(tf.math.sin(observation)))
        return tf.reduce_sum(observation + ones, axis=1)


class Quantised(Own):
    """Fake quantisation by learned ends."""

    def __init__(self) -> None:
        super().__init__(tf.Variable(-6.0), tf.Variable(6.0))

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        low, high = self.kept
        return tf.reduce_sum(tf.quantization.fake_quant_with_min_max_vars(observation, low, high), axis=1)


def quantised_by_channel(observation: tf.Tensor) -> tf.Tensor:
    ends = tf.constant([6.0, 1.0, 2.0, 3.0])
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(observation, -ends, ends)


class QuantisedByChannel(Own):
    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(quantised_by_channel(observation), axis=1)


class AnySize(tf_policy.TFPolicy):
    """Takes observations of any size."""

    def __init__(self) -> None:
        observation = tf.TensorSpec([None], tf.float32, "observation")
        super().__init__(ts.time_step_spec(observation), tf.TensorSpec([], tf.float32, "action"))

    def _variables(self) -> list[tf.Variable]:
        return []

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        return policy_step.PolicyStep(tf.reduce_sum(time_step.observation, axis=1), policy_state)

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


class Careful(Own):
    """Refuses observations that are far out."""

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(observation, 1000.0)]):
            return tf.reduce_sum(observation, axis=1)


class Positive(Own):
    """Refuses weights that are not positive."""

    def __init__(self) -> None:
        super().__init__(tf.Variable(tf.ones([4])))

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_positive(self.kept[0] * tf.ones_like(observation))]):
            return tf.reduce_sum(observation * self.kept[0], axis=1)


class Exotic(Own):
    """Needs an operation that only TensorFlow has."""

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.linalg.det(observation[:, :, None] * observation[:, None, :])


class Worded(Own):
    """Looks numbers up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1]), tf.constant([2.0, 3.0])), 0.0
        )

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        return self.table.lookup(tf.cast(observation[:, 0], tf.int32))


@pytest.fixture
def conversions(monkeypatch) -> list[int]:
    """The size of each file that is converted, and not patched, from now on."""
    sizes: list[int] = []
    convert = compiling._convert

    def counted(constants: Any) -> bytes:
        data = convert(constants)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(compiling, "_convert", counted)
    return sizes


def check(opened: Opened, file: Any) -> None:
    """The file answers as the copy does."""
    spec, serving = opened.export.spec, opened.export.serving
    engine = LiteRTEngine(file, spec, serving.noise)
    check_equivalence(Pair(engine, opened.engine, spec, serving), rows=(1, 3), draws=engine._draws)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_policy_answers_as_tensorflow_does(compiled_policies: CompiledPolicies, kind):
    compiled = compiled_policies.compiled(kind)
    check(compiled.opened, compiled.file)


@pytest.mark.parametrize("kind", KINDS)
def test_patched_file_is_the_converted_one_byte_by_byte(
    compiled_policies: CompiledPolicies, kind, tmp_path, conversions
):
    compiler, other = compiled_policies.compiled(kind).compiler, compiled_policies.compiled(kind).opened.other()
    conversions.clear()  # those that the first test to ask for it makes
    compiler.compile(other.engine, tmp_path / "patched.tflite")
    assert not conversions
    weights = compiling._weights(compiling._variables(other.engine, compiler._names))
    converted = compiling._converted(compiler._constants, compiler._constants.values(weights))
    assert (tmp_path / "patched.tflite").read_bytes() == converted
    check(other, tmp_path / "patched.tflite")


def test_functions_that_are_the_action_are_compiled_once_and_share_its_weights(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("dqn-greedy")
    assert set(compiled.engine._functions) == {"action", "distribution"}
    weights = sum(array.nbytes for array in compiled.opened.weights())
    assert compiled_policies.compiled("observation-image").file.stat().st_size < 2 * weights + 20_000


def test_compiling_leaves_the_copy_as_it_was(compiled_policies: CompiledPolicies, tmp_path):
    opened = compiled_policies.opened("dqn-greedy")
    before = opened.weights()
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    for now, then in zip(opened.weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_nothing_is_left_beside_the_file(compiled_policies: CompiledPolicies, tmp_path):
    compiled = compiled_policies.compiled("dqn-greedy")
    compiled.compiler.compile(compiled.opened.engine, tmp_path / "m.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def test_folded_weights_are_converted_anew_and_right(compiled_policies: CompiledPolicies, tmp_path, conversions):
    opened = compiled_policies.of(Normalised)
    compiler = opened.compiler()
    assert not compiler.patches
    conversions.clear()
    for seed in (1, 2):
        opened.change(seed)
        compiler.compile(opened.engine, tmp_path / "m.tflite")
        check(opened, tmp_path / "m.tflite")
    assert len(conversions) == 2


def test_integer_that_is_used_as_a_float_is_written_into_the_file_and_another_converted_anew(
    compiled_policies: CompiledPolicies, tmp_path, conversions
):
    opened = compiled_policies.of(Counted)
    compiler = opened.compiler()
    assert compiler.patches
    conversions.clear()
    other = opened.other()
    compiler.compile(other.engine, tmp_path / "m.tflite")
    assert not conversions
    count = next(v for v in other.engine.model.model_variables if v.dtype == tf.int64)
    count.assign(40)
    assert compiler.compile(other.engine, tmp_path / "m.tflite")
    assert not conversions
    check(other, tmp_path / "m.tflite")
    chosen = next(v for v in other.engine.model.model_variables if v.dtype == tf.int32)
    chosen.assign([3, 2, 1, 0])
    assert not compiler.compile(other.engine, tmp_path / "m.tflite")
    assert len(conversions) == 1
    check(other, tmp_path / "m.tflite")


# What stays on TensorFlow


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("ddpg-ou-noise", r"action changes variables in each call \(AssignVariableOp\)"),
        ("export-seeded", "action draws from a seed in the export"),
    ],
)
def test_policy_that_does_not_always_answer_the_same_stays_on_tensorflow(
    compiled_policies: CompiledPolicies, kind, reason
):
    with pytest.raises(CannotCompile, match=reason):
        compiled_policies.opened(kind).compiler()


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Careful, "action may refuse inputs"),
        (Wave, "action has Sin, which LiteRT works out otherwise for large inputs"),
        (AnySize, "an input has no fixed size"),
        (Quantised, "action has FakeQuantWithMinMaxVars, which LiteRT works out otherwise half way between two steps"),
        (QuantisedByChannel, "action has FakeQuantWithMinMaxVarsPerChannel, which LiteRT works out otherwise"),
        (Exotic, "action needs MatrixDeterminant, which LiteRT lacks"),
        (Worded, "a look-up table, or another resource"),
    ],
)
def test_policy_that_litert_cannot_run_stays_on_tensorflow(
    compiled_policies: CompiledPolicies, policy: Callable[[], tf_policy.TFPolicy], reason, capfd
):
    opened = compiled_policies.of(policy)
    capfd.readouterr()
    with pytest.raises(CannotCompile, match=reason):
        opened.compiler()
    assert "MLIR" not in capfd.readouterr().err


def test_assertion_that_only_weights_decide_is_supported(compiled_policies: CompiledPolicies, tmp_path):
    opened = compiled_policies.of(Positive)
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    check(opened, tmp_path / "m.tflite")
    opened.engine.model.model_variables[0].assign([1.0, -1.0, 1.0, 1.0])
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    with pytest.raises(Unequal, match="TensorFlow refuses"):
        check(opened, tmp_path / "m.tflite")


def test_conversion_itself_lets_random_numbers_through(compiled_policies: CompiledPolicies, tmp_path):
    """Which is why functions are looked at before; the proof would not let them pass either."""
    opened = compiled_policies.opened("ppo")
    spec = opened.export.spec
    action = FoldedConstants(
        {"action": compiling._wrapped("action", opened.engine.functions["action"])},
        compiling._variables(opened.engine, ["action"]),
    )
    (tmp_path / "m.tflite").write_bytes(compiling._convert(action))
    engine = LiteRTEngine(tmp_path / "m.tflite", spec)
    inputs = probe_inputs(spec, {}, 8)
    first, second = (engine.run("action", inputs)["action"] for _ in range(2))
    assert (first != second).any()
    with pytest.raises(Unequal):
        check_equivalence(Pair(engine, opened.engine, spec, opened.export.serving))


def test_what_only_lends_its_shape_is_supported(compiled_policies: CompiledPolicies):
    compiled_policies.of(ShapeOfWave).compiler()


def chosen_of(dtype: tf.DType, low: int, high: int) -> Callable[[], tf_policy.TFPolicy]:
    """DqnAgent's greedy policy over these actions."""
    action = tensor_spec.BoundedTensorSpec([], dtype, low, high, "action")
    return lambda: greedy_policy.GreedyPolicy(q_policy.QPolicy(TIME_STEP, action, q_net(action=action)))


@pytest.mark.parametrize("dtype", [pytest.param(tf.int32, marks=pytest.mark.only_full), tf.int64])
def test_seven_actions_are_compiled(compiled_policies: CompiledPolicies, dtype, tmp_path):
    opened = compiled_policies.open(f"seven-{dtype.name}", lambda: PolicySaver(chosen_of(dtype, 0, 6)()))
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    check(opened, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 6.0), *(pytest.param(*ends, marks=pytest.mark.only_full) for ends in ((-1.0, 1.0), (0.0, 1.0)))],
)
def test_clipped_floats_are_compiled(compiled_policies: CompiledPolicies, low, high, tmp_path):
    action = tensor_spec.BoundedTensorSpec([2], tf.float32, low, high, "action")
    actor = actor_policy.ActorPolicy(TIME_STEP, action, actor_net(action=action))
    opened = compiled_policies.open(f"box-{low:g}-{high:g}", lambda: PolicySaver(actor))
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    check(opened, tmp_path / "m.tflite")


class Gated(Own):
    """With a gradient of its own, which uses what was worked out before; TFP has bijectors that are made so."""

    def __init__(self) -> None:
        super().__init__(tf.Variable(2.0))

    def answer(self, observation: tf.Tensor) -> tf.Tensor:
        gate = tf.sigmoid(observation[:, 1])

        @tf.custom_gradient
        def gated(x: tf.Tensor) -> Any:
            return x * gate, lambda upstream: upstream * gate

        return gated(observation[:, 0]) * self.kept[0]


def test_a_gradient_that_cannot_be_saved_is_supported(compiled_policies: CompiledPolicies, tmp_path):
    opened = compiled_policies.of(Gated)
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    check(opened, tmp_path / "m.tflite")
