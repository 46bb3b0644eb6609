"""A checkpoint's values, checked against the variables of a policy, before anything is restored from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.errors import SwapRefused
from app.workshop.load import prefix

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
TRAIN_STEP_KEY = "train_step"


def train_step_in(folder: Path) -> int:
    """The train step among a checkpoint's values; -1 where it has none.

    Raises:
      SwapRefused: it cannot be read.
    """
    reader = _reader(folder)
    keys = [k for k in reader.get_variable_to_shape_map() if _normal(k) == TRAIN_STEP_KEY]
    return int(_read(reader, keys[0], folder)) if keys else -1


def check(folder: Path, expected: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Reads every value of the checkpoint and compares it with what the policy has.

    Args:
      folder: the checkpoint.
      expected: key (see `variables_of`) → shape and dtype of each variable.

    Raises:
      SwapRefused: a variable missing, left over, of another shape or dtype, unreadable, or not finite; the message
        names the first.
    """
    reader = _reader(folder)
    found = {_normal(key): key for key in reader.get_variable_to_shape_map() if key != _GRAPH_KEY}
    _compare_keys(set(found), set(expected))
    dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    for name, key in sorted(found.items()):
        if name not in expected:
            continue  # the checkpoint's own save counter
        shape, dtype = expected[name]
        if (tuple(shapes[key]), dtypes[key].name) != (shape, dtype):
            raise SwapRefused(
                f"variable {name} is {dtypes[key].name} {list(shapes[key])}, the policy has {dtype} {list(shape)}"
            )
        _check_finite(name, _read(reader, key, folder))
    _read(reader, _GRAPH_KEY, folder)  # its checksum: a restore would trip over it half-way


def variables_of(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key → shape and dtype of each variable in an export's own weights."""
    reader = _reader(folder)
    dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    return {_normal(key): (tuple(shapes[key]), dtypes[key].name) for key in shapes if key != _GRAPH_KEY}


def _reader(folder: Path) -> Any:
    try:
        return tf.train.load_checkpoint(prefix(folder))
    except Exception as error:  # TensorFlow has many names for a file that is missing or damaged
        raise SwapRefused(f"its index cannot be read: {_line(error, folder)}") from None


def _read(reader: Any, key: str, folder: Path) -> Any:
    try:
        return reader.get_tensor(key)
    except Exception as error:
        raise SwapRefused(f"{_normal(key)} cannot be read: {_line(error, folder)}") from None


def _normal(key: str) -> str:
    """One name for what PolicySaver calls `policy/metadata/…` in checkpoints and `metadata/…` in exports."""
    return key.removesuffix(_SUFFIX).removeprefix("policy/")


def _compare_keys(found: set[str], expected: set[str]) -> None:
    missing, extra = expected - found, found - expected - {"save_counter"}
    if missing:
        raise SwapRefused(f"variable {sorted(missing)[0]} is missing ({len(missing)} of {len(expected)} are)")
    if extra:
        raise SwapRefused(f"variable {sorted(extra)[0]} is unknown to the policy ({len(extra)} such)")


def _check_finite(name: str, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":  # strings have no NaN, and bfloat16 is no kind of NumPy's own
        if array.dtype.kind in "OSU":
            return
        array = array.astype(np.float32)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise SwapRefused(f"variable {name} holds {bad} values of {array.size} that are NaN or infinite")


def _line(error: Exception, folder: Path) -> str:
    """The first line, without the name of a folder that nobody knows."""
    lines = str(error).replace(f"{folder}/", "").strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
