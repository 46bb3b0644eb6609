"""A checkpoint's folder → what it is: complete or not, its train step, digest and files."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.export import graph_files
from app.artifacts.foreign import SPECS_FILE
from app.errors import Incomplete, SwapRefused, is_passing
from saver.artifact import (
    CHECKPOINT_FILE,
    GRAPH_FILE,
    CheckpointManifest,
    IncompleteError,
    digest_of,
    hash_files,
    read_checkpoint_manifest,
)

VARIABLES = "variables"
INDEX = "variables.index"
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Identity:
    """The digest of a checkpoint's files, which identifies it; and its train step, -1 if unknown."""

    digest: str
    train_step: int


def identify(folder: Path, rest_s: float, train_step_in: Callable[[Path, str], int]) -> Identity:
    """Identifies the checkpoint in `folder`.

    With checkpoint.json that is what it says (its files are compared when the checkpoint is loaded). Without,
    the folder has to be whole and at rest: nothing in it younger than `rest_s` seconds. A newer export is a checkpoint
    too. What its graph is read from counts then, beside its variables: with other constants they give other answers.

    Args:
      folder: where the checkpoint lies.
      rest_s: how long a checkpoint without checkpoint.json has to be at rest.
      train_step_in: reads a train step from the values themselves; takes the folder and the digest.

    Raises:
      Incomplete: something is missing or still changing.
      SwapRefused: it is a whole checkpoint, but not a readable one; for now, where the machine is to blame.
    """
    try:
        return _identified(folder, rest_s, train_step_in)
    except Incomplete:
        raise
    except Exception as error:
        if getattr(error, "for_now", False) or is_passing(error):
            reason = str(error) if isinstance(error, SwapRefused) else f"it cannot be read: {error}"
            raise SwapRefused(reason, for_now=True) from error
        raise


def _identified(folder: Path, rest_s: float, train_step_in: Callable[[Path, str], int]) -> Identity:
    if _leads_outside(folder.parent, folder.name):
        raise SwapRefused(f"it is a link that leads outside {folder.parent.name}")
    manifest = manifest_of(folder)
    if manifest is not None:
        missing = [name for name in manifest.files if not _is_file(os.path.join(str(folder), name))]
        if missing:
            raise Incomplete(f"{missing[0]} is missing", settled=True)
        return Identity(manifest.digest, manifest.train_step)
    files = _saved_model_files(folder, rest_s)
    try:
        digest = digest_of(hash_files(folder, files))
    except FileNotFoundError as error:
        raise Incomplete(f"a file vanished: {error.filename}", settled=False) from None
    except OSError as error:
        raise SwapRefused(f"it cannot be read: {error.filename}: {error.strerror}") from error
    return Identity(digest, train_step_in(folder, digest))


def manifest_of(folder: Path) -> CheckpointManifest | None:
    """Reads checkpoint.json in a folder; None where there is none.

    Raises:
      SwapRefused: it cannot be used.
    """
    try:
        if _leads_outside(folder, CHECKPOINT_FILE):
            raise IncompleteError(f"{CHECKPOINT_FILE} leads outside {folder.name}")
        return read_checkpoint_manifest(folder)
    except IncompleteError as error:
        raise SwapRefused(str(error)) from None


def _leads_outside(folder: Path, name: str) -> bool:
    """Whether what has that name in a folder is a link that leads out of it."""
    # Resolving takes longer than all the rest, and thousands are no links.
    return os.path.islink(f"{folder}/{name}") and not (folder / name).resolve().is_relative_to(folder.resolve())


def _is_file(path: str) -> bool:
    """Like `Path.is_file`, without the path."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP):
            raise
        return False
    except ValueError:  # a character that no path has
        return False


def plain_files(folder: Path) -> list[str]:
    """Lists the names of the files that make a checkpoint without checkpoint.json.

    Raises:
      SwapRefused: it is not whole.
    """
    try:
        return [path.relative_to(folder).as_posix() for path in _saved_model_files(folder, rest_s=0)]
    except Incomplete as error:
        raise SwapRefused(str(error)) from None


def _saved_model_files(folder: Path, rest_s: float) -> list[Path]:
    variables = folder / VARIABLES
    try:
        files = {path.name: path for path in variables.iterdir()} if variables.is_dir() else {}
        graph = graph_files(folder)
        parts = [folder, *([variables] if variables.is_dir() else []), *files.values(), *graph]
        age_s = time.time() - max(path.stat().st_mtime for path in parts)
        settled = age_s >= rest_s or age_s < -rest_s  # a clock that is ahead cannot be waited for
    except FileNotFoundError as error:
        raise Incomplete(f"it cannot be read: {error.strerror}", settled=False) from None
    except OSError as error:  # waiting would not help
        raise SwapRefused(f"it cannot be read: {error.strerror}") from None
    if INDEX not in files:
        raise Incomplete(f"{VARIABLES}/{INDEX} is missing", settled)
    shards = [match for name in files if (match := _SHARD.fullmatch(name))]
    count = int(shards[0][2]) if shards else 0
    if not shards or {int(match[1]) for match in shards} != set(range(count)):
        raise Incomplete(f"{len(shards)} of {count or 'its'} data files are there", settled)
    if not settled:
        raise Incomplete("its files changed just now", settled)
    if (folder / GRAPH_FILE).exists() and not (folder / SPECS_FILE).exists():
        raise SwapRefused(f"it is a SavedModel that PolicySaver has not written: {SPECS_FILE} is missing")
    return [files[INDEX], *(files[match[0]] for match in shards), *graph]
