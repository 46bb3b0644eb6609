"""Policies by what they look at: images, nests, strings, integers, single numbers, other dtypes."""

from typing import Any

import tensorflow as tf
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.networks import categorical_q_network, value_network
from tf_agents.policies import actor_policy, categorical_q_policy, greedy_policy, q_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from tests.zoo.kind import BOX, THREE, Kind, actor_net, adam, lively, q_net

IMAGE = tensor_spec.BoundedTensorSpec([8, 8, 3], tf.uint8, 0, 255, "image")
DICT = {
    "position": tensor_spec.BoundedTensorSpec([2], tf.float32, -1.0, 1.0, "position"),
    "speed": tf.TensorSpec([], tf.float32, "speed"),
}
TUPLE = (
    tf.TensorSpec([3], tf.float32, "left"),
    tensor_spec.BoundedTensorSpec([2], tf.int32, [0, -5], [3, 5], "right"),
)
NESTED = {
    "camera": IMAGE,
    "body": (TUPLE[0], {"gear": tensor_spec.BoundedTensorSpec([], tf.int64, 0, 4, "gear")}),
    "goal": [tf.TensorSpec([2], tf.float64, "here"), tf.TensorSpec([2], tf.float32, "there")],
    "alarm": tf.TensorSpec([2], tf.bool, "alarm"),
}
WORD = tf.TensorSpec([], tf.string, "word")
WORDS = tf.TensorSpec([3], tf.string, "words")
ROOM = tensor_spec.BoundedTensorSpec([], tf.int32, 0, 9, "room")
TILES = tensor_spec.BoundedTensorSpec([2, 3], tf.int64, 0, 4, "tiles")
NUMBER = tf.TensorSpec([], tf.float32, "number")
MATRIX = tf.TensorSpec([2, 3], tf.float32, "matrix")
VOCABULARY = ("north", "east", "south", "west")


class Flatten(tf.keras.layers.Layer):
    """A nest of numbers as one vector; pixels as shares of 255."""

    def __init__(self, spec: Any, **options: Any) -> None:
        super().__init__(**options)
        self._spec = spec

    def get_config(self) -> dict[str, Any]:
        """Networks copy their preprocessing layers."""
        return {**super().get_config(), "spec": self._spec}

    def call(self, observation: Any) -> tf.Tensor:
        """Flattens what each spec says, and leaves the outer dimensions."""
        parts = []
        for spec, value in zip(tf.nest.flatten(self._spec), tf.nest.flatten(observation), strict=True):
            outer = tf.shape(value)[: value.shape.rank - spec.shape.rank]
            numbers = tf.cast(value, tf.float32) / (255.0 if spec.dtype == tf.uint8 else 1.0)
            parts.append(tf.reshape(numbers, tf.concat([outer, [spec.shape.num_elements()]], 0)))
        return tf.concat(parts, -1)


class Lookup(tf.keras.layers.Layer):
    """A word → its place in the vocabulary, by a hash table, as a learned vector."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        places = tf.lookup.KeyValueTensorInitializer(VOCABULARY, tf.range(len(VOCABULARY)))
        self._table = tf.lookup.StaticHashTable(places, default_value=len(VOCABULARY))
        self._vectors = tf.keras.layers.Embedding(len(VOCABULARY) + 1, 4, embeddings_initializer=lively())

    def call(self, words: tf.Tensor) -> tf.Tensor:
        """The word's vector."""
        return self._vectors(self._table.lookup(words))


class Hashed(tf.keras.layers.Layer):
    """Three words → buckets, each a learned vector."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._vectors = tf.keras.layers.Embedding(16, 2, embeddings_initializer=lively())

    def call(self, words: tf.Tensor) -> tf.Tensor:
        """The vectors side by side."""
        vectors = self._vectors(tf.strings.to_hash_bucket_fast(words, 16))
        return tf.reshape(vectors, tf.concat([tf.shape(words)[:-1], [6]], 0))


def _q(spec: Any, **options: Any) -> tf_policy.TFPolicy:
    return q_policy.QPolicy(ts.time_step_spec(spec), THREE, q_net(spec, **options))


def _greedy_q(spec: Any, **options: Any) -> tf_policy.TFPolicy:
    return greedy_policy.GreedyPolicy(_q(spec, **options))


def _scaled() -> tf.keras.layers.Layer:
    return tf.keras.layers.Lambda(lambda pixels: tf.cast(pixels, tf.float32) / 255.0)


def _one_hot(depth: int) -> tf.keras.layers.Layer:
    return tf.keras.layers.Lambda(lambda number: tf.one_hot(number, depth))


def _conv() -> tf_policy.TFPolicy:
    return _greedy_q(IMAGE, preprocessing_layers=_scaled(), conv_layer_params=((4, 3, 2),))


def _conv_actor() -> tf_policy.TFPolicy:
    network = actor_net(IMAGE, preprocessing_layers=_scaled(), conv_layer_params=((4, 3, 2),))
    return actor_policy.ActorPolicy(ts.time_step_spec(IMAGE), BOX, network)


def _conv_c51() -> tf_policy.TFPolicy:
    network = categorical_q_network.CategoricalQNetwork(
        IMAGE, THREE, num_atoms=11, preprocessing_layers=_scaled(), conv_layer_params=((4, 3, 2),)
    )
    return greedy_policy.GreedyPolicy(
        categorical_q_policy.CategoricalQPolicy(ts.time_step_spec(IMAGE), THREE, network, -5.0, 5.0)
    )


def _per_leaf() -> tf_policy.TFPolicy:
    """A preprocessing layer for each leaf, joined by a combiner."""
    layers = {"position": tf.keras.layers.Dense(4), "speed": tf.keras.layers.Lambda(lambda x: x[..., None])}
    return _greedy_q(DICT, preprocessing_layers=layers, preprocessing_combiner=tf.keras.layers.Concatenate())


def _nested_ppo() -> ppo_clip_agent.PPOClipAgent:
    """Nested observations, normalised leaf by leaf, by what was seen."""
    spec = {"position": DICT["position"], "joints": (TUPLE[0],)}
    agent = ppo_clip_agent.PPOClipAgent(
        ts.time_step_spec(spec),
        BOX,
        optimizer=adam(),
        actor_net=actor_net(spec, preprocessing_combiner=Flatten(spec)),
        value_net=value_network.ValueNetwork(spec, preprocessing_combiner=Flatten(spec), fc_layer_params=(4,)),
        num_epochs=1,
    )
    seen = {
        "position": tf.random.stateless_uniform([32, 1, 2], [1, 2], -1.0, 0.5),
        "joints": (tf.random.stateless_normal([32, 1, 3], [3, 4], 2.0, 3.0),),
    }
    agent.update_observation_normalizer(seen)
    return agent


def _doubles() -> tf_policy.TFPolicy:
    spec = tf.TensorSpec([4], tf.float64, "observation")
    return _greedy_q(spec, preprocessing_layers=tf.keras.layers.Lambda(lambda x: tf.cast(x, tf.float32)))


def _kind(name: str, describe: str, make: Any, stochastic: bool = False) -> Kind:
    return Kind(name, "Observations", describe, make, stochastic=stochastic)


KINDS = [
    _kind("observation-image", "uint8 image through a convolution", _conv),
    _kind("observation-image-actor", "the same, a continuous actor", _conv_actor, True),
    _kind("observation-image-c51", "the same, categorical DQN", _conv_c51),
    _kind("observation-dict", "a dictionary, a layer for each leaf", _per_leaf),
    _kind(
        "observation-tuple",
        "a tuple of floats and integers",
        lambda: _greedy_q(TUPLE, preprocessing_combiner=Flatten(TUPLE)),
    ),
    _kind(
        "observation-nested",
        "a deep nest of image, floats, integers, doubles and booleans",
        lambda: _greedy_q(NESTED, preprocessing_combiner=Flatten(NESTED)),
    ),
    _kind("observation-nested-ppo", "a nest normalised leaf by leaf", lambda: _nested_ppo().collect_policy, True),
    _kind("observation-nested-ppo-greedy", "the same, greedy", lambda: _nested_ppo().policy),
    _kind(
        "observation-word", "a string through a lookup table", lambda: _greedy_q(WORD, preprocessing_layers=Lookup())
    ),
    _kind("observation-words", "strings by hash buckets", lambda: _greedy_q(WORDS, preprocessing_layers=Hashed())),
    _kind(
        "observation-integer", "a single integer, one-hot", lambda: _q(ROOM, preprocessing_layers=_one_hot(10)), True
    ),
    _kind(
        "observation-integers", "a matrix of integers", lambda: _greedy_q(TILES, preprocessing_layers=Flatten(TILES))
    ),
    _kind(
        "observation-scalar",
        "a single float",
        lambda: _greedy_q(NUMBER, preprocessing_layers=tf.keras.layers.Lambda(lambda x: x[..., None])),
    ),
    _kind("observation-matrix", "a matrix of floats", lambda: _greedy_q(MATRIX)),
    _kind("observation-doubles", "float64", _doubles),
]
