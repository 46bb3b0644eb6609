"""The specs of a policy → inputs that its engines are compared on: gentle, far out, and at the ends of their ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from app.wire.tensors import Arrays
from saver.artifact import Leaf, PolicySpec, leaves

# Of floats in probes, where the spec allows them: gentle, and far out.
_SCALES = (1.0, 0.01, 20.0, 1e3, 1e6)
# Bounds that are further apart are those of a dtype, and no range to probe all over.
_WIDE = 1e12
_STRINGS = np.array([b"", b"a", b"up", b"\xff"], object)
# Where operations decide: between two integers, at the ends of common clips; and what 32 bits cannot hold.
_TIES = (-6.0, 2.0, 0.5, -0.5, 1.5, 2.5, -1.5, 6.0, 1.0, -1.0, 127.5, 0.0)
_WHOLE = (2**33 + 2, 0, 2**32 + 1, 1, -(2**32) + 1, 6, 2**31, 2, -1, 3)


def later_probes(spec: PolicySpec, rows: int) -> Iterator[Arrays]:
    """Random inputs of `action` with every step type and any state, and some at the ends of their ranges."""
    for seed, scale in enumerate(_SCALES):
        yield random_inputs(spec, rows, scale, np.random.default_rng(seed))
    yield _at_ends(spec, random_inputs(spec, rows, 1.0, np.random.default_rng(len(_SCALES))), rows)


def _at_ends(spec: PolicySpec, inputs: Arrays, rows: int) -> Arrays:
    """Observations at the ends of their ranges, half way between two integers, and beyond 32 bits."""
    nest = spec.inputs["observation"] if isinstance(spec.inputs, dict) and spec.takes_time_step else ()
    for number, (_, leaf) in enumerate(leaves(nest)):
        if leaf.dtype in ("string", "bool"):
            continue
        shape = (rows, *_shape(leaf))
        values = np.array(_WHOLE if leaf.is_integer else _TIES)
        chosen = values[(np.arange(np.prod(shape, dtype=int)) + number) % len(values)].reshape(shape)
        limits = np.iinfo(leaf.storage) if leaf.is_integer else np.finfo(np.float32)
        low = limits.min if leaf.minimum is None else leaf.minimum
        high = limits.max if leaf.maximum is None else leaf.maximum
        inputs[leaf.name] = np.clip(chosen, low, high).astype(leaf.storage)
    return inputs


def random_inputs(spec: PolicySpec, rows: int, scale: float, generator: np.random.Generator) -> Arrays:
    """Inputs of `action` inside their bounds, with every step type and any state."""
    inputs = {leaf.name: random_values(leaf, rows, scale, generator) for _, leaf in leaves(spec.inputs)}
    if spec.takes_time_step and isinstance(spec.inputs, dict):
        for _, leaf in leaves(spec.inputs["step_type"]):
            inputs[leaf.name] = generator.integers(0, 3, (rows, *_shape(leaf))).astype(leaf.storage)
    return inputs


def random_values(leaf: Leaf, rows: int, scale: float, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Values inside the bounds of the leaf; floats without bounds are normal, times `scale`."""
    shape = (rows, *_shape(leaf))
    if leaf.dtype == "string":
        return generator.choice(_STRINGS, shape)
    if leaf.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    low: Any
    high: Any
    if leaf.is_integer:
        limits = np.iinfo(leaf.storage)
        low = np.asarray(max(0, limits.min) if leaf.minimum is None else leaf.minimum)
        # Without bounds: small ones, as of a look-up, and then any.
        most = low + 9 if scale < _SCALES[2] else np.minimum(limits.max, 2.0**53)
        high = most if leaf.maximum is None else np.asarray(leaf.maximum)
        span = np.clip(np.asarray(high, np.float64) - low, 0, 2.0**31)
        values = low + np.floor(generator.random(shape) * (span + 1)).astype(np.int64)
        if leaf.maximum is None and limits.bits == 64 and scale == _SCALES[-1]:
            values = values + 2**32 * generator.integers(0, 2, shape)  # what LiteRT might take for 32 bits
        return values.astype(leaf.storage)
    low = -np.inf if leaf.minimum is None else np.asarray(leaf.minimum, np.float64)
    high = np.inf if leaf.maximum is None else np.asarray(leaf.maximum, np.float64)
    normal = np.clip(scale * generator.standard_normal(shape), low, high)
    bounded = np.isfinite(low) & np.isfinite(high) & (high - low < _WIDE)
    if not bounded.all() or scale <= 1.0:
        return normal.astype(leaf.storage)
    # All over the range, and at its ends.
    share = np.clip(generator.uniform(-0.2, 1.2, shape), 0.0, 1.0)
    return (np.where(bounded, low, 0.0) + share * np.where(bounded, high - low, 0.0)).astype(leaf.storage)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return tuple(2 if size is None else size for size in leaf.shape)
