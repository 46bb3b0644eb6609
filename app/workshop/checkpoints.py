"""A checkpoint's folder → what it is (complete? which train step? which digest?), and its values, checked.

Nothing here touches a policy: a checkpoint is judged before it is restored.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.errors import Incomplete, SwapRefused
from app.workshop.load import stamp
from saver.artifact import (
    CheckpointManifest,
    IncompleteError,
    check_files,
    digest_of,
    hash_files,
    read_checkpoint_manifest,
)

INDEX = "variables.index"
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
TRAIN_STEP_KEY = "train_step"


@dataclass(frozen=True)
class Identity:
    """What identifies a checkpoint: the digest of its files; and its train step, -1 if unknown."""

    digest: str
    train_step: int


def identify(folder: Path, rest_s: float) -> Identity:
    """Tells what checkpoint lies in `folder`.

    With checkpoint.json that is what it says (its files are compared when the checkpoint is loaded). Without,
    the folder has to be whole and at rest: nothing in it younger than `rest_s` seconds.

    Raises:
      Incomplete: something is missing or still changing.
      SwapRefused: it is a whole checkpoint, but not a readable one.
    """
    try:
        manifest = read_checkpoint_manifest(folder)
    except IncompleteError as error:
        raise SwapRefused(str(error)) from None
    if manifest is not None:
        missing = [name for name in manifest.files if not (folder / name).is_file()]
        if missing:
            raise Incomplete(f"{missing[0]} is missing", settled=True)
        return Identity(manifest.digest, manifest.train_step)
    files = _files_of_plain(folder, rest_s)
    try:
        digest = digest_of(hash_files(folder, files))
    except OSError as error:
        raise Incomplete(f"a file vanished: {error.filename}", settled=False) from None
    return Identity(digest, train_step_in(folder))


def train_step_in(folder: Path) -> int:
    """The train step among a checkpoint's values; -1 where it has none.

    Raises:
      SwapRefused: it cannot be read.
    """
    reader = _reader(folder)
    keys = [k for k in reader.get_variable_to_shape_map() if _normal(k) == TRAIN_STEP_KEY]
    return int(_read(reader, keys[0])) if keys else -1


def check(folder: Path, expected: Mapping[str, tuple[tuple[int, ...], str]]) -> CheckpointManifest | None:
    """Reads every value of the checkpoint and compares it with what the policy has.

    Args:
      folder: the checkpoint.
      expected: key (see `variables_of`) → shape and dtype of each variable.

    Raises:
      SwapRefused: files that differ from the manifest, a variable missing, left over, of another shape or
        dtype, unreadable, or not finite; the message names the first.
    """
    try:
        manifest = read_checkpoint_manifest(folder)
        if manifest is not None:
            check_files(folder, manifest.files)
    except IncompleteError as error:
        raise SwapRefused(str(error)) from None
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
        _check_finite(name, _read(reader, key))
    _read(reader, _GRAPH_KEY)  # its checksum: a restore would trip over it half-way
    return manifest


def variables_of(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Key → shape and dtype of each variable in an export's own weights."""
    reader = _reader(folder)
    dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    return {_normal(key): (tuple(shapes[key]), dtypes[key].name) for key in shapes if key != _GRAPH_KEY}


def stamps(folder: Path) -> list[Any]:
    """What changes when a file of the checkpoint is replaced."""
    return sorted((path.name, stamp(path)) for path in folder.rglob("*") if path.is_file())


def prefix(folder: Path) -> str:
    """What TensorFlow calls the checkpoint in `folder`."""
    return str(folder / "variables" / "variables")


def _files_of_plain(folder: Path, rest_s: float) -> list[Path]:
    variables = folder / "variables"
    try:
        files = {path.name: path for path in variables.iterdir()} if variables.is_dir() else {}
        parts = [folder, *([variables] if variables.is_dir() else []), *files.values()]
        age_s = time.time() - max(path.stat().st_mtime for path in parts)
        settled = age_s >= rest_s or age_s < -rest_s  # a clock that is ahead cannot be waited for
    except OSError as error:
        raise Incomplete(f"it cannot be read: {error.strerror}", settled=False) from None
    if INDEX not in files:
        raise Incomplete(f"variables/{INDEX} is missing", settled)
    shards = [match for name in files if (match := _SHARD.fullmatch(name))]
    count = int(shards[0][2]) if shards else 0
    if not shards or {int(match[1]) for match in shards} != set(range(count)):
        raise Incomplete(f"{len(shards)} of {count or 'its'} data files are there", settled)
    if not settled:
        raise Incomplete("its files changed just now", settled)
    return [files[INDEX], *(files[match[0]] for match in shards)]


def _reader(folder: Path) -> Any:
    try:
        return tf.train.load_checkpoint(prefix(folder))
    except Exception as error:  # TensorFlow has many names for a file that is missing or damaged
        raise SwapRefused(f"its index cannot be read: {_line(error)}") from None


def _read(reader: Any, key: str) -> Any:
    try:
        return reader.get_tensor(key)
    except Exception as error:
        raise SwapRefused(f"{_normal(key)} cannot be read: {_line(error)}") from None


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


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
