"""A checkpoint's values, checked against the variables of a policy, before anything is restored from them.

Others may refuse one, too: `app.artifacts.checkpoint_identity` and `app.control.prepare` before, for its files and its
specs; `app.builder.builder` after, for the answers that it gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.background import rest
from app.engine.savedmodel.checkpoint_reader import TRAIN_STEP, Stored, StoredValues, as_train_step, numbers_in
from app.errors import SwapRefused

# What `tf.train.Checkpoint.save` adds.
_SAVE_COUNTER = "save_counter"
_MOST_KEPT = 2**25


def train_step_in(folder: Path) -> int:
    """The train step among a checkpoint's values; -1 where it has none.

    Raises:
      SwapRefused: it cannot be read.
    """
    values = StoredValues(folder)
    stored = values.by_name.get(TRAIN_STEP)
    return as_train_step(values.read(stored)) if stored is not None else -1


def check(folder: Path, expected: Iterable[Stored], keep: bool = False, checked: bool = False) -> StoredValues:
    """Reads every value of the checkpoint and compares it with what the policy has.

    Args:
      folder: the checkpoint, or another export.
      expected: the policy's own variables (see `variables_of`).
      keep: whether up to 128 MB of floats are kept, and not read again.
      checked: whether its files have been compared with the digests of whoever saved them.

    Returns:
      The values.

    Raises:
      SwapRefused: a variable missing, left over, of another shape or dtype, unreadable, or not finite; the message
        names the first. What is metadata, and no weight, may be of any shape and have any value.
    """
    values = StoredValues(folder, checked)
    values.kept = {} if keep and numbers_in(values.all) <= _MOST_KEPT else None
    if not values.has_names:
        raise SwapRefused("it is a checkpoint of TensorFlow 1, which has no object graph; PolicySaver writes others")
    wanted = list(expected)
    found = {stored: _found(stored, values.by_name) for stored in wanted}
    _compare_names(found, values)
    for stored, copies in found.items():
        for copy in copies:
            _check_kind(stored, copy)
            rest()
            value = values.read(copy)
            if stored.is_weight:
                _check_finite(stored.name, value)
        _check_same(copies, values)
    return values


def variables_of(folder: Path) -> list[Stored]:
    """The variables in an export's own weights."""
    return StoredValues(folder).all


def _found(wanted: Stored, by_name: Mapping[str, Stored]) -> list[Stored]:
    """What the checkpoint has for a variable: one value, or one for each of its names."""
    copies = {by_name[name].key: by_name[name] for name in wanted.names if name in by_name}
    return list(copies.values())


def _compare_names(found: Mapping[Stored, list[Stored]], values: StoredValues) -> None:
    missing = sorted(stored.name for stored, copies in found.items() if not copies)
    if missing:
        raise SwapRefused(f"variable {missing[0]} is missing ({len(missing)} of {len(found)} are)")
    known = {copy.key for copies in found.values() for copy in copies}
    extra = sorted(value.name for value in values.all if value.key not in known and value.name != _SAVE_COUNTER)
    if extra:
        raise SwapRefused(f"variable {extra[0]} is unknown to the policy ({len(extra)} such)")


def _check_kind(wanted: Stored, found: Stored) -> None:
    shape = found.shape if not wanted.is_weight else wanted.shape  # a restore finds out whether it can be assigned
    if (found.shape, found.dtype) != (shape, wanted.dtype):
        has = f"{wanted.dtype} {list(wanted.shape)}"
        raise SwapRefused(f"variable {found.name} is {found.dtype} {list(found.shape)}, the policy has {has}")


def _check_same(copies: list[Stored], values: StoredValues) -> None:
    """One variable of the policy may be two in the checkpoint, if they are equal."""
    if len(copies) < 2:
        return
    one, *others = (np.asarray(values.read(copy)).tobytes() for copy in copies)
    if any(other != one for other in others):
        names = " and ".join(sorted(copy.name for copy in copies))
        raise SwapRefused(f"{names} differ, which are one variable of the policy")


def _check_finite(name: str, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":  # strings have no NaN, and bfloat16 is no kind of NumPy's own
        if array.dtype.kind in "OSU":
            return
        array = array.astype(np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise SwapRefused(f"variable {name} holds {bad} values of {array.size} that are NaN or infinite")
