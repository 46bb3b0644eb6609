"""What a function draws becomes inputs: its answers are distributed as before, and equal for equal noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from app.builder.draws import CannotReplace
from app.builder.noise_inputs import noise_for, of_noise
from app.engine.noise import CALL_NORMAL, CALL_UNIFORM, fresh_inputs
from app.engine.savedmodel.engine import FlatFunction
from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM
from saver.impure_ops import impurities
from tests.zoo.statistics import same_distribution

tfd = tfp.distributions
MANY = 4000
PROBES = [{"x": np.ones((rows, 3), np.float32)} for rows in (2, 3)]


def flat(call: Callable[[tf.Tensor], tf.Tensor], rows: int | None = None) -> FlatFunction:
    signature = [tf.TensorSpec([rows, 3], tf.float32, "x")]
    traced = tf.function(lambda x: {"y": call(x)}, input_signature=signature, autograph=False)
    return FlatFunction(traced.get_concrete_function(), {"x": tf.float32}, by_name=False)


def sizes(function: FlatFunction) -> dict[str, int]:
    specs = tf.nest.flatten(function.concrete.structured_input_signature)
    return {spec.name: spec.shape[-1] for spec in specs if spec.name != "x"}


def in_passes(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y + tf.random.uniform(tf.shape(y))), (0, x))[1]


def in_a_branch(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.shape(x)[1] > 2, lambda: x + tf.random.uniform(tf.shape(x)), lambda: x * 2.0)


# A function, and how many numbers of which kind a row takes.
DRAWING: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], dict[str, int]]] = {
    "uniform": (lambda x: x + tf.random.uniform(tf.shape(x)), {NOISE_UNIFORM: 3}),
    "normal": (lambda x: x * tf.random.normal(tf.shape(x)), {NOISE_NORMAL: 3}),
    "both": (
        lambda x: x * tf.random.normal(tf.shape(x)) + tf.random.uniform(tf.shape(x)[:1])[:, None],
        {NOISE_NORMAL: 3, NOISE_UNIFORM: 1},
    ),
    "integers": (lambda x: tf.random.uniform(tf.shape(x)[:1], -2, 3, tf.int64), {NOISE_UNIFORM: 1}),
    "categories": (lambda x: tf.random.categorical(x * [0.1, 0.5, 1.0], 2), {NOISE_UNIFORM: 6}),
    "masked categories": (lambda x: tf.random.categorical(x * [1.0, -np.inf, 1.0], 1), {NOISE_UNIFORM: 3}),
    "by a seed of TFP": (lambda x: tfd.Independent(tfd.Gumbel(x, 2.0), 1).sample(), {NOISE_UNIFORM: 3}),
    "samples before rows": (lambda x: tf.transpose(tfd.Laplace(x, 1.0).sample(4), [1, 0, 2]), {NOISE_UNIFORM: 12}),
    "several parts of a row": (
        lambda x: tf.reshape(tf.random.normal([2 * tf.shape(x)[0], 3]), [-1, 2, 3]) + x[:, None],
        {NOISE_NORMAL: 6},
    ),
    "one after the other": (
        lambda x: tf.random.categorical(x * tf.random.normal(tf.shape(x)), 1),
        {NOISE_NORMAL: 3, NOISE_UNIFORM: 3},
    ),
    "dropped": (lambda x: tf.nn.dropout(x, 0.4), {NOISE_UNIFORM: 3}),
    "in a loop": (in_passes, {NOISE_UNIFORM: 9}),
    "in a branch": (in_a_branch, {NOISE_UNIFORM: 3}),
}


@pytest.mark.parametrize("name", DRAWING)
def test_answers_are_distributed_as_before(name: str) -> None:
    call, takes = DRAWING[name]
    function = flat(call)
    noisy = of_noise(function, PROBES)
    assert sizes(noisy) == takes
    assert impurities(noisy.concrete) == []
    x = np.repeat(np.array([[0.5, -1.0, 2.0]], np.float32), MANY, axis=0)
    noise = fresh_inputs(takes, MANY, np.random.default_rng(1))
    found = noisy({"x": x} | noise)["y"]
    assert same_distribution(found, function({"x": x})["y"], 1e-6)
    # A row's answer depends on its own noise alone, and rows are as independent as their noise.
    alone = noisy({"x": x[5:6]} | {key: array[5:6] for key, array in noise.items()})["y"]
    np.testing.assert_allclose(alone, found[5:6], rtol=1e-6)
    assert len(np.unique(found, axis=0)) > 1


def test_numbers_for_a_whole_call_are_an_input_of_their_own() -> None:
    function = flat(lambda x: x + tf.random.normal([3]) * tf.random.uniform([]))
    noisy = of_noise(function, PROBES)
    assert sizes(noisy) == {CALL_NORMAL: 3, CALL_UNIFORM: 1}
    x = np.zeros((2, 3), np.float32)
    generator = np.random.default_rng(1)
    found = [noisy({"x": x} | fresh_inputs(sizes(noisy), 2, generator))["y"] for _ in range(1000)]
    assert all((answer[0] == answer[1]).all() for answer in found)
    expected = [function({"x": x})["y"][0] for _ in range(1000)]
    assert same_distribution(np.array(found)[:, 0], np.array(expected), 1e-6)


def test_draws_by_one_seed_are_one_draw() -> None:
    def twice(x: tf.Tensor) -> tf.Tensor:
        seed = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
        first, second = (tf.random.stateless_uniform(tf.shape(x), seed) for _ in range(2))
        return first - second

    noisy = of_noise(flat(twice), PROBES)
    assert sizes(noisy) == {NOISE_UNIFORM: 3}
    x = PROBES[0]["x"]
    np.testing.assert_array_equal(noisy({"x": x} | noise_for(noisy, 2, 0))["y"], 0.0)


def test_seeds_that_are_split_draw_different_numbers() -> None:
    def split(x: tf.Tensor) -> tf.Tensor:
        first, second = tfp.random.split_seed(tfp.random.sanitize_seed(None))
        return tf.random.stateless_normal(tf.shape(x), first) - tf.random.stateless_normal(tf.shape(x), second)

    assert sizes(of_noise(flat(split), PROBES)) == {NOISE_NORMAL: 6}


def test_a_fixed_number_of_rows() -> None:
    noisy = of_noise(flat(lambda x: x + tf.random.uniform(tf.shape(x)), 2), PROBES[:1])
    assert sizes(noisy) == {NOISE_UNIFORM: 3}
    assert noisy(PROBES[0] | noise_for(noisy, 2, 0))["y"].shape == (2, 3)


def by_one_seed(x: tf.Tensor) -> tf.Tensor:
    seed = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    return tf.random.stateless_uniform(tf.shape(x), seed) + tf.random.stateless_normal(tf.shape(x), seed)


def until_it_fits(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda y: tf.reduce_any(y < 0.1), lambda y: tf.random.uniform(tf.shape(y)), (x * 0.0,))[0]


GENERATOR = tf.random.Generator.from_non_deterministic_state()
COUNTER = tf.Variable(0.0)


def counted(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([COUNTER.assign_add(1.0)]):
        return x + tf.random.uniform(tf.shape(x)) * COUNTER.read_value()


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda x: x + tf.random.uniform(tf.shape(x), seed=7), "draws from a seed in the export"),
        (lambda x: x + tf.random.stateless_uniform(tf.shape(x), [1, 2]), "draws by a seed in the export"),
        (
            lambda x: x + tf.random.stateless_uniform(tf.shape(x), tf.cast(x[0, :2], tf.int32)),
            "draws by a seed that comes from its inputs",
        ),
        (lambda x: x + GENERATOR.normal(tf.shape(x)), "draws from a generator, whose state is a variable"),
        (by_one_seed, "draws twice by one seed"),
        (until_it_fits, "draws in a loop: how often a loop goes round depends on its inputs"),
        (lambda x: x + tf.random.gamma(tf.shape(x)[:1], 2.0)[:, None], "draws by RandomGamma"),
        (lambda x: tf.random.uniform(tf.shape(x), dtype=tf.float64), "draws numbers of float64"),
        (lambda x: tf.random.uniform(tf.shape(x), 0, 2000, tf.int32), "over 1024 apart"),
        (lambda x: tf.random.shuffle(x), "is not the same from call to call, beside what it draws: RandomShuffle"),
        (lambda x: x + tf.random.normal([tf.shape(x)[0], tf.shape(x)[0]])[:, :1], "shapes"),
        (counted, "changes variables in each call .Assign"),
    ],
)
def test_what_cannot_be_had_from_noise_is_refused(call: Any, why: str) -> None:
    with pytest.raises(CannotReplace, match=why):
        of_noise(flat(call), PROBES)
