"""A policy's folder → which export lies in it, identified by its files."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.foreign import hint_for
from app.errors import UnusablePolicy
from saver.artifact import (
    GRAPH_FILE,
    POLICY_FILE,
    SERVING_FOLDER,
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
    check_folder(folder)
    try:
        manifest = read_policy_manifest(folder)
        if manifest is not None:
            check_files(folder, manifest.files)
            return Exported(folder, digest_of(manifest.files), manifest.files, manifest)
    except IncompleteError as error:
        raise UnusablePolicy(f"{folder} is no complete export: {error}") from None
    except OSError as error:
        raise UnusablePolicy(f"{folder} cannot be read: {error.filename}: {error.strerror}") from None
    try:
        return _plain(folder)
    except OSError as error:
        raise UnusablePolicy(f"{folder} cannot be read: {error.filename}: {error.strerror}") from None


def _plain(folder: Path) -> Exported:
    """One of TF-Agents' own saver, without policy.json."""
    variables = folder / "variables"
    # Not by glob, which finds nothing in a folder that may not be read.
    files = [
        folder / GRAPH_FILE,
        *(path for path in (variables.iterdir() if variables.is_dir() else ()) if path.is_file()),
    ]
    hashes = hash_files(folder, files)
    return Exported(folder, digest_of(hashes), hashes, None)


def check_folder(folder: Path) -> None:
    """Checks a folder that should hold a policy, cheaply, before its files are read.

    Raises:
      UnusablePolicy: it cannot be read, is none, or holds something else; the message says what.
    """
    try:
        if folder.is_symlink() and not folder.exists():
            raise UnusablePolicy(f"{folder} is a link that leads nowhere ({os.readlink(folder)})")
        check_is_export(folder)
    except IncompleteError as error:
        raise UnusablePolicy(f"{error}{hint_for(folder)}") from None
    except OSError as error:
        raise UnusablePolicy(f"{folder} cannot be read: {error.strerror}") from None


def export_stamp(folder: Path) -> object:
    """Returns a stamp that changes when the export in a folder does, or when it becomes readable or unreadable."""
    places = [folder, *(folder / name for name in (GRAPH_FILE, POLICY_FILE, SERVING_FOLDER))]
    for above in (folder, folder / SERVING_FOLDER):
        with contextlib.suppress(OSError):
            places += sorted((above / "variables").iterdir())
    return tuple((path, _stamp_of(path)) for path in places)


def _stamp_of(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
