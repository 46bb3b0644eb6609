"""checkpoint.json: what makes a folder of variables a complete checkpoint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saver.artifact.files import IncompleteError, digest_of, hash_files, read_manifest, write_json
from saver.artifact.publishing import discard, locked

CHECKPOINT_FILE = "checkpoint.json"
CHECKPOINTS_FOLDER = "checkpoints"
FORMAT = 1


@dataclass(frozen=True)
class CheckpointManifest:
    """Content of checkpoint.json: the train step (-1 if unknown), the digest of all files, and each one's sha256."""

    train_step: int
    digest: str
    files: dict[str, str]


def write_checkpoint_manifest(
    folder: Path, train_step: int, known: Callable[[Path], str | None] = lambda _: None
) -> CheckpointManifest:
    """Hashes `folder/variables/*`, but for the `known`, and writes checkpoint.json, a checkpoint's last file."""
    hashes = hash_files(folder, [p for p in (folder / "variables").iterdir() if p.is_file()], known)
    manifest = CheckpointManifest(train_step, digest_of(hashes), hashes)
    write_json(
        folder / CHECKPOINT_FILE,
        {"format": FORMAT, "train_step": train_step, "digest": manifest.digest, "files": hashes},
    )
    return manifest


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest | None:
    """Reads checkpoint.json; None where there is none (a checkpoint that tf-agents' own saver wrote).

    Only the manifest is read; `check_files` compares the files with it.

    Raises:
      IncompleteError: checkpoint.json is not what this version of the format says.
    """
    data = read_manifest(folder / CHECKPOINT_FILE, FORMAT)
    if data is None:
        return None
    try:
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        train_step = data["train_step"]
        if type(train_step) is not int or not -(2**63) <= train_step < 2**63:
            raise ValueError(f"train_step is {str(train_step)[:40]}, expected an integer of 64 bits")
        manifest = CheckpointManifest(train_step, str(data["digest"]), files)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise IncompleteError(f"{CHECKPOINT_FILE} lacks a usable field: {error}") from None
    if digest_of(manifest.files) != manifest.digest:
        raise IncompleteError(f"{CHECKPOINT_FILE} is at odds with itself: digest and files differ")
    return manifest


def prune_checkpoints(newest: Path, keep_last: int) -> None:
    """Deletes the oldest siblings of the checkpoint `newest`, so that `keep_last` stay, itself one of them.

    Oldest by train step, ties by natural name order. Only folders with a readable checkpoint.json count;
    links and hidden folders do not. Each one is hidden before it is deleted: a reader sees all of it or none.
    """
    with locked(newest.parent):  # or one that was overwritten just now could go for its earlier train step
        others = []
        for folder in newest.parent.iterdir():
            if folder != newest and not folder.name.startswith(".") and folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(IncompleteError):
                    manifest = read_checkpoint_manifest(folder)
                    if manifest is not None:
                        others.append((manifest.train_step, natural_order(folder.name), folder))
        for _, _, folder in sorted(others, reverse=True)[keep_last - 1 :]:
            with contextlib.suppress(FileNotFoundError):  # another trainer was faster
                discard(folder)


def natural_order(name: str) -> tuple[Any, ...]:
    """Sorts names with numbers in them by the numbers: `step-9` before `step-10`."""
    return ([int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))], name)
