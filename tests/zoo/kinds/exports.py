"""Kinds of export: fixed batches, names without nest paths, seeds, inputs of one's own, metadata."""

from typing import Any

import tensorflow as tf
from tf_agents.policies import actor_policy, greedy_policy, q_policy, tf_policy
from tf_agents.trajectories import time_step as ts

from tests.support.policies import InformedPolicy
from tests.support.saver_policies import NestedPolicy, input_fn_and_spec, one_tensor
from tests.zoo.kind import BOX, FLOATS, THREE, TIME_STEP, Kind
from tests.zoo.kinds.q_learning import q
from tests.zoo.kinds.recurrent import actor_rnn


def _greedy() -> tf_policy.TFPolicy:
    return greedy_policy.GreedyPolicy(q())


def _lstm() -> tf_policy.TFPolicy:
    return greedy_policy.GreedyPolicy(actor_policy.ActorPolicy(TIME_STEP, BOX, actor_rnn()))


def _renamed_lstm() -> tf_policy.TFPolicy:
    """Its state's specs have unique names, which an export without nest paths needs."""
    network = actor_rnn()
    network._state_spec = [tf.TensorSpec([5], tf.float32, name) for name in ("hidden", "cell")]
    return greedy_policy.GreedyPolicy(actor_policy.ActorPolicy(TIME_STEP, BOX, network))


def _sequence_input() -> dict[str, Any]:
    """The state comes in the input of one's own, beside the sensors."""
    spec = {
        "sensors": tf.TensorSpec([4], tf.float32, "sensors"),
        "memory": [tf.TensorSpec([5], tf.float32, "hidden"), tf.TensorSpec([5], tf.float32, "cell")],
    }

    def to_time_step(given: Any) -> Any:
        rows = tf.shape(given["sensors"])[0]
        one = tf.ones([rows])
        return ts.TimeStep(tf.ones([rows], tf.int32), 0 * one, one, given["sensors"]), given["memory"]

    return {"input_fn_and_spec": (to_time_step, spec)}


def _annotated() -> dict[str, Any]:
    """Metadata of which two share a dtype, and a train step of 32 bits."""
    metadata = {
        "episodes": tf.Variable(5, dtype=tf.int64),
        "frames": tf.Variable(600, dtype=tf.int64),
        "best": tf.Variable(1.5),
        "note": tf.Variable("made by the zoo"),
    }
    return {"metadata": metadata, "train_step": tf.Variable(42, dtype=tf.int32)}


def _rewarded() -> tf_policy.TFPolicy:
    """Rewards are vectors, as bandits with constraints have them."""
    time_step = ts.time_step_spec(FLOATS, tf.TensorSpec([2], tf.float32, "reward"))
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(time_step, THREE, q()._q_network))


def _kind(name: str, describe: str, make: Any, options: Any = dict, stochastic: bool = False) -> Kind:
    return Kind(f"export-{name}", "Exports", describe, make, options, stochastic)


KINDS = [
    _kind("fixed-batch", "three rows, neither more nor fewer", _greedy, lambda: {"batch_size": 3}),
    _kind("fixed-batch-lstm", "the same with state", _lstm, lambda: {"batch_size": 3}),
    _kind("fixed-batch-sampled", "sixty rows, sampled", q, lambda: {"batch_size": 60}, True),
    _kind("one-row", "a batch of one", _greedy, lambda: {"batch_size": 1}),
    _kind("no-nest-paths", "the specs' own names", _greedy, lambda: {"use_nest_path_signatures": False}),
    _kind(
        "no-nest-paths-nested", "the same, everything nested", NestedPolicy, lambda: {"use_nest_path_signatures": False}
    ),
    _kind("no-nest-paths-lstm", "the same with state", _renamed_lstm, lambda: {"use_nest_path_signatures": False}),
    _kind("nested", "nested observation, action, state and info, by one weight", NestedPolicy),
    _kind("seeded", "a seed for its samples", q, lambda: {"seed": 5}, True),
    _kind(
        "input-fn", "named sensors in place of a time step", _greedy, lambda: {"input_fn_and_spec": input_fn_and_spec()}
    ),
    _kind("input-fn-one-tensor", "the observation alone", _greedy, lambda: {"input_fn_and_spec": one_tensor()}),
    _kind("input-fn-sampled", "the same, sampled", q, lambda: {"input_fn_and_spec": one_tensor()}, True),
    _kind("input-fn-state", "sensors and memory in one input", _lstm, _sequence_input),
    _kind(
        "input-fn-fixed-batch",
        "named sensors, three rows",
        _greedy,
        lambda: {"input_fn_and_spec": input_fn_and_spec(), "batch_size": 3},
    ),
    _kind("metadata", "metadata of which two share a dtype, a train step of 32 bits", _greedy, _annotated),
    _kind("batch-info", "info given once for a whole batch", InformedPolicy),
    _kind("vector-reward", "rewards are vectors", _rewarded),
]
