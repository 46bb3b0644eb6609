"""A policy's folder → which export lies in it, identified by its files."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.foreign import SPECS_FILE, hint_for
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

_ASSETS = "assets"


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
    weights = [path for path in (variables.iterdir() if variables.is_dir() else ()) if path.is_file()]
    hashes = hash_files(folder, [*_plain_graph_files(folder), *weights])
    return Exported(folder, digest_of(hashes), hashes, None)


def graph_files(folder: Path) -> list[Path]:
    """Lists the files, beside its weights, that an export's answers follow from; none where it is no export.

    One of our saver has the sha256 of all its files in policy.json.

    Raises:
      OSError: a folder cannot be read.
    """
    if (folder / POLICY_FILE).exists():
        return [folder / POLICY_FILE]
    return _plain_graph_files(folder) if (folder / GRAPH_FILE).exists() else []


def _plain_graph_files(folder: Path) -> list[Path]:
    specs = folder / SPECS_FILE
    return [folder / GRAPH_FILE, *([specs] if specs.exists() else []), *asset_files(folder)]


def asset_files(folder: Path) -> list[Path]:
    """Lists the files that an export's graph reads, such as vocabularies.

    Raises:
      OSError: a folder cannot be read.
    """
    walked = os.walk(folder / _ASSETS, onerror=_raise_unless_missing)
    paths = (Path(parent, name) for parent, _, names in walked for name in names)
    return sorted(path for path in paths if path.is_file())


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


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
    places = [folder, *(folder / name for name in (GRAPH_FILE, POLICY_FILE, SPECS_FILE, SERVING_FOLDER))]
    for above in (folder, folder / SERVING_FOLDER):
        with contextlib.suppress(OSError):
            places += sorted((above / "variables").iterdir())
        with contextlib.suppress(OSError):
            places += asset_files(above)
    return tuple((path, _stamp_of(path)) for path in places)


def _stamp_of(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
