"""Small policies of the kinds that bodies differ by → their exports: `… policies FOLDER`.

A process of its own, so that the one that measures has no TensorFlow in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from saver.stderr import hushed

with hushed():
    import tensorflow as tf
    from tf_agents.networks import q_network, q_rnn_network
    from tf_agents.policies import greedy_policy, q_policy
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step as ts

    from saver import PolicySaver

FLOATS = tf.TensorSpec([4], tf.float32, "observation")
IMAGE = tensor_spec.BoundedTensorSpec([84, 84, 4], tf.uint8, 0, 255, "observation")
NUMBER = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 99, "observation")
WORD = tf.TensorSpec([], tf.string, "observation")
ACTION = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 1, "action")


class _Buckets(tf.keras.layers.Layer):
    """A string → one of sixteen, as a vector."""

    def call(self, words: Any) -> Any:
        return tf.one_hot(tf.strings.to_hash_bucket_fast(words, 16), 16)


class _OneHot(tf.keras.layers.Layer):
    """A number → a vector."""

    def call(self, numbers: Any) -> Any:
        return tf.one_hot(numbers, 100)


def _greedy(spec: Any, network: Any) -> Any:
    return greedy_policy.GreedyPolicy(q_policy.QPolicy(ts.time_step_spec(spec), ACTION, network))


def _q(spec: Any, **more: Any) -> Any:
    return _greedy(spec, q_network.QNetwork(spec, ACTION, fc_layer_params=(16,), **more))


def main() -> None:
    """Exports all of them."""
    folder = Path(sys.argv[1])
    shrunk = ((4, 8, 8),)
    lstm = q_rnn_network.QRnnNetwork(FLOATS, ACTION, input_fc_layer_params=(16,), lstm_size=(64,))
    made = {
        "small": q_policy.QPolicy(
            ts.time_step_spec(FLOATS), ACTION, q_network.QNetwork(FLOATS, ACTION, fc_layer_params=(16,))
        ),
        "image": _q(IMAGE, preprocessing_layers=tf.keras.layers.Rescaling(1 / 255), conv_layer_params=shrunk),
        "number": _q(NUMBER, preprocessing_layers=_OneHot()),
        "word": _q(WORD, preprocessing_layers=_Buckets()),
        "recurrent": _greedy(FLOATS, lstm),
    }
    for name, policy in made.items():
        PolicySaver(policy).save(str(folder / name))


if __name__ == "__main__":
    main()
