"""A policy's folder → which export lies in it: told by its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.errors import UnusablePolicy
from saver.artifact import (
    GRAPH_FILE,
    IncompleteError,
    PolicyManifest,
    check_files,
    check_is_export,
    digest_of,
    hash_files,
    read_policy_manifest,
)


@dataclass(frozen=True)
class Exported:
    """An export: its digest, the sha256 of its files by name, and policy.json (None for TF-Agents' own saver's)."""

    folder: Path
    digest: str
    files: dict[str, str]
    manifest: PolicyManifest | None


def identify_export(folder: Path) -> Exported:
    """Reads every file of the export in `folder`.

    Raises:
      UnusablePolicy: no export of a policy, or an incomplete one; the message says what is wrong with it.
    """
    try:
        check_is_export(folder)
    except IncompleteError as error:
        raise UnusablePolicy(str(error)) from None
    try:
        manifest = read_policy_manifest(folder)
        if manifest is not None:
            check_files(folder, manifest.files)
            return Exported(folder, digest_of(manifest.files), manifest.files, manifest)
    except IncompleteError as error:
        raise UnusablePolicy(f"{folder} is no complete export: {error}") from None
    files = [folder / GRAPH_FILE, *(path for path in (folder / "variables").glob("*") if path.is_file())]
    hashes = hash_files(folder, files)
    return Exported(folder, digest_of(hashes), hashes, None)
