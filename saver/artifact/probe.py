"""Inputs that a spec allows, made without knowing the policy: to see whether it answers, and answers as it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saver.artifact.nests import Leaf, leaves
from saver.artifact.policy import NOISE_NORMAL, NOISE_UNIFORM, Noise, PolicySpec

Arrays = dict[str, np.ndarray[Any, Any]]


def probe_inputs(spec: PolicySpec, initial: Mapping[str, np.ndarray[Any, Any]], rows: int) -> Arrays:
    """Inputs of `action`: zeros, small numbers and bounds, at the start of an episode.

    Args:
      spec: of the policy.
      initial: [rows, …] by the names of `get_initial_state`.
      rows: how many.
    """
    inputs = {leaf.name: _values(leaf, rows) for _, leaf in leaves(spec.inputs)}
    if isinstance(spec.inputs, dict) and spec.takes_time_step:
        for top, value in (("step_type", 0), ("discount", 1)):
            for _, leaf in leaves(spec.inputs[top]):
                inputs[leaf.name] = np.full((rows, *_shape(leaf)), value, leaf.storage)
    return inputs | spec.state_inputs(initial)


def probe_noise(noise: Noise, rows: int, seed: int = 0) -> Arrays:
    """The noise inputs of `sample`, from a generator of that seed."""
    arrays: Arrays = {}
    if not (noise.uniform or noise.normal):
        return arrays
    generator = np.random.default_rng(seed)
    if noise.uniform:
        arrays[NOISE_UNIFORM] = generator.uniform(0.001, 0.999, (rows, noise.uniform)).astype(np.float32)
    if noise.normal:
        arrays[NOISE_NORMAL] = generator.standard_normal((rows, noise.normal)).astype(np.float32)
    return arrays


def outside_spec(value: np.ndarray[Any, Any], leaf: Leaf) -> str | None:
    """Says what is wrong with a policy's answer for `leaf`, None if nothing: not finite, or integers out of bounds."""
    if leaf.is_float and not np.isfinite(value.astype(np.float64)).all():
        return "is not finite"
    below = leaf.is_integer and leaf.minimum is not None and bool((value < leaf.minimum).any())
    above = leaf.is_integer and leaf.maximum is not None and bool((value > leaf.maximum).any())
    return f"is {value.min()} to {value.max()}, outside its bounds" if below or above else None


def _values(leaf: Leaf, rows: int) -> np.ndarray[Any, Any]:
    shape = (rows, *_shape(leaf))
    if leaf.dtype == "string":
        return np.full(shape, b"", leaf.storage)
    if leaf.dtype == "bool":
        return np.ones(shape, leaf.storage)
    steps = np.arange(int(np.prod(shape))).reshape(shape)
    if leaf.is_integer:
        low = np.asarray(0 if leaf.minimum is None else leaf.minimum)
        high = low + 1 if leaf.maximum is None else np.asarray(leaf.maximum)
        span = np.clip(high.astype(np.float64) - low.astype(np.float64), 0, 255).astype(np.int64)
        return (low + steps % (span + 1)).astype(leaf.storage)
    floor = np.maximum(-1.0 if leaf.minimum is None else leaf.minimum, -1.0)
    ceiling = np.maximum(np.minimum(1.0 if leaf.maximum is None else leaf.maximum, 1.0), floor)
    ramp = steps / max(steps.size - 1, 1)
    return np.asarray(floor + ramp * (ceiling - floor)).astype(leaf.storage)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return tuple(2 if size is None else size for size in leaf.shape)
