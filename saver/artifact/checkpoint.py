"""checkpoint.json: what makes a folder of variables a complete checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saver.artifact.files import IncompleteError, digest_of, hash_files, read_manifest, write_json

CHECKPOINT_FILE = "checkpoint.json"
CHECKPOINTS_FOLDER = "checkpoints"
FORMAT = 1


@dataclass(frozen=True)
class CheckpointManifest:
    """What checkpoint.json says: the train step (-1 if unknown), the digest of all files, and each one's sha256."""

    train_step: int
    digest: str
    files: dict[str, str]


def write_checkpoint_manifest(folder: Path, train_step: int) -> CheckpointManifest:
    """Hashes `folder/variables/*` and writes checkpoint.json, the last file of a checkpoint."""
    hashes = hash_files(folder, [p for p in (folder / "variables").iterdir() if p.is_file()])
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
        manifest = CheckpointManifest(int(data["train_step"]), str(data["digest"]), files)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise IncompleteError(f"{CHECKPOINT_FILE} lacks a usable field: {error}") from None
    if digest_of(manifest.files) != manifest.digest:
        raise IncompleteError(f"{CHECKPOINT_FILE} is at odds with itself: digest and files differ")
    return manifest
