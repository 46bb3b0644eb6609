"""Whether two ways to ask one policy agree: number by number, or sample by sample.

assert_agree(exported, asked_live(exported), ask(exported, loaded.signatures["action"]))
"""

from functools import cache

import numpy as np
import tensorflow as tf

from tests.zoo.exported import Act, Exported, Flat, arrays
from tests.zoo.inputs import repeated
from tests.zoo.statistics import same_distribution

ROWS = 60  # of different input; a multiple of the zoo's fixed batch sizes
SAMPLES = 4096
ERROR_RATE = 1e-6
_SAMPLED_ROWS = 4
_TOLERANCE = 1e-5
_BETWEEN_DRAWS = 8  # a stateful policy's answers depend on the ones before; these are as good as independent


def ask(exported: Exported, act: Act, seed: int = 3) -> Flat:
    """What `act` answers to valid inputs: one answer for each of many rows, or many samples for each of a few."""
    kind, rows = exported.kind, exported.batch_size or ROWS
    if kind.stochastic:
        inputs = exported.inputs(_SAMPLED_ROWS, seed)
        few = kind.draws_once_per_call  # one call for each sample: one row will do
        answers = {row: sample(exported, act, inputs, row) for row in range(1 if few else _SAMPLED_ROWS)}
        return {f"{name} of row {row}": value for row, flat in answers.items() for name, value in flat.items()}
    inputs = exported.inputs(ROWS, seed)
    parts = [{name: value[start : start + rows] for name, value in inputs.items()} for start in range(0, ROWS, rows)]
    batches = [arrays(act(**_tensors(part))) for part in parts]
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


@cache
def asked_live(exported: Exported) -> Flat:
    """What the policy itself answers, with the weights of its export. Not for within `Exported.trained`."""
    return ask(exported, exported.live)


@cache
def asked_trained(exported: Exported) -> Flat:
    """What the policy itself answers, with the weights that it has within `Exported.trained`. Not for within it."""
    with exported.trained():
        return ask(exported, exported.live)


def assert_agree(exported: Exported, expected: Flat, found: Flat) -> None:
    """The answers are equal, or samples of one distribution; names and dtypes are equal in any case."""
    if exported.kind.stochastic:
        assert _dtypes(found) == _dtypes(expected)
        assert not different_leaves(expected, found)
    else:
        assert_equal(expected, found)


def assert_equal(expected: Flat, found: Flat) -> None:
    """Names, dtypes and shapes; integers exactly, floats within 1e-5 + 1e-5·|x|."""
    assert _dtypes(found) == _dtypes(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if np.issubdtype(value.dtype, np.floating):
            np.testing.assert_allclose(found[name], value, rtol=_TOLERANCE, atol=_TOLERANCE, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def differ(exported: Exported, before: Flat, after: Flat) -> bool:
    """Whether the answers differ by more than rounding, or chance."""
    if exported.kind.stochastic:
        return bool(different_leaves(before, after))
    return any(not np.allclose(after[name], value, rtol=1e-3, atol=1e-3) for name, value in before.items())


def different_leaves(a: Flat, b: Flat, error_rate: float = ERROR_RATE) -> list[str]:
    """The leaves whose samples are not of one distribution; equal ones fail at most at this rate, all together.

    Leaves that do not vary are compared too, as distributions of one value.
    """
    return [name for name in a if not same_distribution(a[name], b[name], error_rate / len(a))]


def sample(exported: Exported, act: Act, inputs: Flat, row: int) -> Flat:
    """Independent samples [n, …] of the answer to one row of the inputs, as many in one call as may be."""
    kind = exported.kind
    rows = exported.batch_size or (1 if kind.draws_once_per_call else SAMPLES)
    tensors = _tensors(repeated(inputs, row, rows))
    if rows == SAMPLES:
        return arrays(act(**tensors))
    every = _BETWEEN_DRAWS if kind.stateful else 1
    kept = 1 if kind.draws_once_per_call else rows
    answers = _in_turn(act, tensors, every * SAMPLES // kept)
    return {
        name: np.reshape(value[every - 1 :: every, :kept], [-1, *value.shape[2:]]) for name, value in answers.items()
    }


def _in_turn(act: Act, tensors: dict[str, tf.Tensor], calls: int) -> Flat:
    """Answers [calls, rows, …], one call after the other in one graph: calls from Python would take minutes."""

    @tf.function
    def play() -> dict[str, tf.Tensor]:
        types = {name: value.dtype for name, value in act(**tensors).items()}
        return tf.map_fn(
            lambda _: dict(act(**tensors)), tf.range(calls), fn_output_signature=types, parallel_iterations=1
        )

    return arrays(play())


def _tensors(flat: Flat) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in flat.items()}


def _dtypes(flat: Flat) -> dict[str, np.dtype]:
    return {name: value.dtype for name, value in flat.items()}
