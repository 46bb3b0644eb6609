"""The values that operations are asked: ends, ties, denormal and large numbers, signed zeros, and what is no number."""

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation

Flat = dict[str, np.ndarray]

# Classes of numbers, each with what the ones before it have.
ORDINARY, DENORMAL, LARGE, NOT_FINITE = CLASSES = ("ordinary", "denormal", "above 1e27", "not finite")
_SMALLEST, _MOST = np.finfo(np.float32).tiny, 1e27
_POSITIVE: dict[str, tuple[float, ...]] = {
    ORDINARY: (
        *(0.1, 0.25, 0.5, 0.75, 0.99999994, 1.0, 1.0000001, 1.5, 2.0, 2.5, 3.0, 3.5, 4.5, 5.5, 5.9999995, 6.0),
        *(6.0000005, 1e-3, 1e-5, 1e-7, 1e-10, 1e-20, 1e-30, 1e-37, 7.5, 10.0, 17.0, 20.0, 50.0, 87.0, 88.5, 89.0),
        *(100.0, 104.0, 127.5, 128.0, 255.5, 1e3, 32767.5, 65535.5, 1e6, 4194303.5, 8388607.5, 16777217.0),
        *(2147483520.0, 2147483648.0, 4294967296.0, 1e10, 9007199254740992.0, 1e18, 9.223372e18, 1.8446744e19, 2e19),
        *(1e25, 9e26),
    ),
    DENORMAL: (1e-38, 1e-40, 1e-45),
    LARGE: (2e27, 1e30, 1e35, 3e38, float(np.finfo(np.float32).max)),
    NOT_FINITE: (np.inf,),
}
_WHOLE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
_LARGE_INTEGERS = (16777217, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 2, 8589934594, 2**53 + 1)
_LARGE_INTEGERS = (*_LARGE_INTEGERS, 2**63 - 1, 2**63, 2**64 - 1)
_STRINGS = np.array([b"", b"a", b"up", b"\xff"], object)
# Pairs of all values would be thousands.
_MOST_ROWS = 600


def class_of(array: np.ndarray) -> np.ndarray:
    """The number of the class of each float; 0 for what is no float."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return np.zeros(array.shape, int)
    sizes = np.abs(array.astype(np.float64))
    denormal = (sizes > 0) & (sizes < _SMALLEST)
    return np.where(~np.isfinite(sizes), 3, np.where(sizes > _MOST, 2, np.where(denormal, 1, 0)))


def calls_for(operation: Operation) -> Iterator[tuple[str, Flat]]:
    """Inputs [rows, …] by the class of numbers that they go up to: of every value in each place, and many pairs."""
    if operation.values:
        whole = {name: _as(spec, operation.values[name]) for name, spec in operation.inputs.items()}
        rows = len(next(iter(whole.values())))
        classes = np.max([class_of(a).reshape(rows, -1).max(1, initial=0) for a in whole.values()], axis=0)
        for number, name in enumerate(CLASSES):
            if (classes == number).any():
                yield name, {key: array[classes == number] for key, array in whole.items()}
        return
    has_floats = any(spec.dtype.is_floating for spec in operation.inputs.values())
    for name in CLASSES if has_floats else CLASSES[:1]:
        yield name, _rows_of(operation, name)


def gentle_rows(operation: Operation, rows: int) -> Flat:
    """Everyday values, as many rows as asked."""
    generator = np.random.default_rng(rows)
    if operation.values:
        _, first = next(calls_for(operation))
        chosen = generator.integers(0, len(next(iter(first.values()))), rows)
        return {key: array[chosen] for key, array in first.items()}
    return {name: _everyday(spec, rows, generator) for name, spec in operation.inputs.items()}


def _rows_of(operation: Operation, kind: str) -> Flat:
    generator = np.random.default_rng(len(operation.name))
    pools = {name: [_pool(spec.dtype, ORDINARY), _pool(spec.dtype, kind)] for name, spec in operation.inputs.items()}
    values = {name: np.concatenate(pool) if kind != ORDINARY else pool[0] for name, pool in pools.items()}
    if len(values) == 2:
        first, second = (np.arange(len(pool)) for pool in values.values())
        x, y = (grid.ravel() for grid in np.meshgrid(first, second, indexing="ij"))
        old = [len(pool[0]) for pool in pools.values()]
        new = (x >= old[0]) | (y >= old[1]) if kind != ORDINARY else np.ones(len(x), bool)
        chosen = dict(zip(values, (x[new], y[new]), strict=True))
    else:
        chosen = {name: generator.permutation(len(pool) * 8) % len(pool) for name, pool in values.items()}
    return _in_rows(operation.inputs, values, chosen, generator)


def _pool(dtype: tf.DType, kind: str) -> np.ndarray:
    """What an input of this dtype is asked, [n]."""
    if dtype.is_floating:
        values = [sign * value for value in _POSITIVE[kind] for sign in (1, -1)]
        values += {ORDINARY: [0.0, -0.0], NOT_FINITE: [np.nan]}.get(kind, [])
        array = np.array(values)
        if dtype == tf.float16:
            array = array[np.abs(array) < 60000] if kind == ORDINARY else array[:0]
        return array.astype(dtype.as_numpy_dtype)
    if kind != ORDINARY:
        return np.zeros(0, object if dtype == tf.string else dtype.as_numpy_dtype)
    if dtype == tf.bool:
        return np.array([False, True])
    if dtype == tf.string:
        return _STRINGS
    limits = np.iinfo(dtype.as_numpy_dtype)
    both = {sign * value for value in (*_WHOLE, *_LARGE_INTEGERS) for sign in (1, -1)}
    both |= {int(limits.min), int(limits.min) + 1}
    return np.array(sorted(v for v in both if limits.min <= v <= limits.max), dtype.as_numpy_dtype)


def _everyday(spec: tf.TensorSpec, rows: int, generator: np.random.Generator) -> np.ndarray:
    shape = (rows, *spec.shape)
    if spec.dtype.is_floating:
        return generator.standard_normal(shape).astype(spec.dtype.as_numpy_dtype)
    if spec.dtype == tf.string:
        return generator.choice(_STRINGS, shape)
    return generator.integers(0, 2 if spec.dtype == tf.bool else 9, shape).astype(spec.dtype.as_numpy_dtype)


def _in_rows(
    specs: Mapping[str, tf.TensorSpec], pools: Flat, chosen: Mapping[str, np.ndarray], generator: np.random.Generator
) -> Flat:
    """Lays the chosen values out in rows of each input's shape; mixed up, and the last row filled with any of them."""
    longest = max(len(indices) for indices in chosen.values())
    sizes = {name: max(1, int(np.prod(spec.shape))) for name, spec in specs.items()}
    rows = min(_MOST_ROWS, -(-longest // max(sizes.values())))
    order = generator.permutation(longest)
    found = {}
    for name, spec in specs.items():
        indices = np.resize(chosen[name], longest)[order]
        filled = np.resize(indices, rows * sizes[name])
        found[name] = pools[name][filled].reshape(rows, *spec.shape)
    return found


def _as(spec: tf.TensorSpec, values: np.ndarray) -> np.ndarray:
    return np.asarray(values, object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)
