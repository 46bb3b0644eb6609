"""The server's own folder for one policy: which versions served last, what is pinned, and copies of their weights.

So that neither a restart nor a trainer who cleans up takes anything from an operator. Blocks; control lane only.

    STATE_DIR/<policy>/state.json             what served last, and the pin
    STATE_DIR/<policy>/versions/<digest>/     a checkpoint's files, copied
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import UnusablePolicy
from saver.artifact import IncompleteError
from saver.artifact.files import read_manifest, write_json
from saver.artifact.publishing import discard, publish, staged_folder

log = logging.getLogger("policy_server.swap")

FORMAT = 1
# The active version, and as many to roll back to.
KEPT = 6


@dataclass(frozen=True)
class Kept:
    """A version as it is remembered."""

    name: str
    digest: str
    train_step: int


@dataclass(frozen=True)
class Pin:
    """An operator's wish to stay at a version. `held`: also when its checkpoint is gone from the policy's folder."""

    name: str
    held: bool = False


@dataclass(frozen=True)
class Memory:
    """What survives a restart: the versions that served, the oldest first and the active one last, and the pin.

    `export` is the digest of the export whose graph they were served by.
    """

    export: str
    served: tuple[Kept, ...] = ()
    pin: Pin | None = None


class Store:
    """One policy's folder in the server's state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = folder / "versions"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Store]:
        """Makes the folder, and keeps other servers out of it.

        Raises:
          UnusablePolicy: it cannot be written, or another server uses it.
        """
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY)
        except OSError as error:
            raise UnusablePolicy(f"the state folder {self._folder} cannot be used: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnusablePolicy(f"the state folder {self._folder} is in use by another server") from None
            except OSError:
                pass  # a file system without locks keeps nobody out
            yield self
        finally:
            os.close(descriptor)

    def recall(self, export: str) -> Memory:
        """What was remembered under this export; an empty memory where there is none or it cannot be read."""
        try:
            data = read_manifest(self._folder / "state.json", FORMAT)
            if data is None or data["export"] != export:
                return Memory(export)
            served = tuple(Kept(str(k["name"]), str(k["digest"]), int(k["train_step"])) for k in data["served"])
            pin = Pin(str(data["pin"]["name"]), bool(data["pin"]["held"])) if data["pin"] else None
            return Memory(export, served, pin)
        except (IncompleteError, KeyError, TypeError, ValueError) as error:
            log.warning("%s: what served last is unknown: %s", self._folder.name, error)
            return Memory(export)

    def remember(self, memory: Memory) -> None:
        """Replaces what is remembered, and deletes the copies that it has no more use for.

        A disk that is full or read-only costs the memory, not the service: the log tells it.
        """
        try:
            write_json(self._folder / "state.json", {"format": FORMAT, **asdict(memory)}, sync=True)
            wanted = {kept.digest for kept in memory.served}
            for copy in self._versions.iterdir():
                if not copy.name.startswith(".") and copy.name not in wanted:
                    discard(copy)
        except OSError as error:
            log.warning("%s: a restart will not know what served last: %s", self._folder.name, error)

    def keep(self, digest: str, source: Path) -> None:
        """Copies the checkpoint in `source`, for when it is gone from there. What cannot be copied is logged."""
        destination = self._versions / digest
        if destination.exists():
            return
        try:
            with staged_folder(destination) as staged:
                before = _stamps(source)
                shutil.copytree(source, staged, dirs_exist_ok=True)
                if _stamps(source) != before:
                    raise OSError("it was replaced meanwhile")
                publish(staged, destination)
        except OSError as error:
            log.warning("%s: %s is not kept for a roll-back: %s", self._folder.name, source.name, error)

    def folder_of(self, digest: str) -> Path | None:
        """Where the copy of a version lies; None if there is none."""
        folder = self._versions / digest
        return folder if folder.is_dir() else None


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
