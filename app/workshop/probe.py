"""Probe inputs made from a spec, and whether the answers to them are ones that the policy may give."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.engine.base import Arrays, Engine
from app.errors import SwapRefused
from app.validate import input_names
from app.wire.tensors import is_float, is_integer, storage_dtype
from saver.artifact import Leaf, PolicySpec, leaves

ROWS = 4


def probe_inputs(spec: PolicySpec, engine: Engine, rows: int = ROWS) -> Arrays:
    """Inputs of `action` that the spec allows: zeros, small numbers and bounds; a new episode's state."""
    inputs = {leaf.name: _values(leaf, rows) for _, leaf in leaves(spec.inputs)}
    if isinstance(spec.inputs, dict):
        for top, value in (("step_type", 0), ("discount", 1)):
            for _, leaf in leaves(spec.inputs.get(top, ()) if spec.takes_time_step else ()):
                inputs[leaf.name] = np.full((rows, *_shape(leaf)), value, storage_dtype(leaf))
        initial = engine.initial_state(rows)
        inputs |= input_names(spec, initial)
    return inputs


def check(engine: Engine, spec: PolicySpec) -> None:
    """Calls `action` on probe inputs.

    Raises:
      SwapRefused: it raises, or an action is not finite or outside integer bounds.
    """
    try:
        outputs = engine.run("action", probe_inputs(spec, engine))
    except Exception as error:
        raise SwapRefused(f"the policy fails on probe inputs: {str(error)[:300]}") from error
    for path, leaf in leaves(spec.action, "action"):
        action = outputs[leaf.name]
        if is_float(leaf) and not np.isfinite(action.astype(np.float32)).all():
            raise SwapRefused(f"{path} is not finite on probe inputs")
        if is_integer(leaf) and _outside(action, leaf):
            raise SwapRefused(f"{path} is {action.min()} to {action.max()} on probe inputs, outside its bounds")


def _outside(action: np.ndarray[Any, Any], leaf: Leaf) -> bool:
    low = leaf.minimum is not None and bool((action < leaf.minimum).any())
    return low or (leaf.maximum is not None and bool((action > leaf.maximum).any()))


def _values(leaf: Leaf, rows: int) -> np.ndarray[Any, Any]:
    shape = (rows, *_shape(leaf))
    dtype = storage_dtype(leaf)
    if leaf.dtype == "string":
        return np.full(shape, b"", dtype)
    if leaf.dtype == "bool":
        return np.ones(shape, dtype)
    steps = np.arange(int(np.prod(shape))).reshape(shape)
    if is_integer(leaf):
        low = np.asarray(0 if leaf.minimum is None else leaf.minimum)
        high = low + 1 if leaf.maximum is None else np.asarray(leaf.maximum)
        span = np.clip(high.astype(np.float64) - low.astype(np.float64), 0, 255).astype(np.int64)
        return (low + steps % (span + 1)).astype(dtype)
    floor = np.maximum(-1.0 if leaf.minimum is None else leaf.minimum, -1.0)
    ceiling = np.maximum(np.minimum(1.0 if leaf.maximum is None else leaf.maximum, 1.0), floor)
    ramp = steps / max(steps.size - 1, 1)
    return np.asarray(floor + ramp * (ceiling - floor)).astype(dtype)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return tuple(2 if size is None else size for size in leaf.shape)
