"""Checkpoints written beforehand → published one by one, each in an instant."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Protocol

_KEPT = 5  # as a trainer with `save_checkpoint(…, keep_last=5)`


class Writer(Protocol):
    """What writes checkpoints: `Trainer`."""

    def checkpoint(self, parent: Path) -> str:
        """Writes the next one into `parent`, and returns its name."""


class Checkpoints:
    """Those that are ready, in a folder that no server looks into, and those that are published to `policy`."""

    def __init__(self, writer: Writer, policy: Path, ready: Path) -> None:
        self._writer = writer
        self._published = policy / "checkpoints"
        self._ready = ready
        self._names: list[str] = []
        self._published.mkdir(exist_ok=True)
        self._ready.mkdir()

    def prepare(self, count: int) -> None:
        """Writes `count` more. The saver syncs them to the disk: nothing of them is written while is measured."""
        self._names += [self._writer.checkpoint(self._ready) for _ in range(count)]

    @property
    def upcoming(self) -> str:
        """The name of the next one."""
        return self._names[0]

    def publish(self) -> tuple[str, float]:
        """Renames the next one into place; its name, and when that was done (`time.perf_counter`)."""
        name = self._names.pop(0)
        os.rename(self._ready / name, self._published / name)
        return name, time.perf_counter()

    def as_tar(self) -> tuple[str, bytes]:
        """The next one's name, and what an upload of it sends; it is not published."""
        name = self._names.pop(0)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(self._ready / name, ".")
        shutil.rmtree(self._ready / name)
        return name, out.getvalue()

    def prune(self, kept: int = _KEPT) -> None:
        """Deletes all published ones but the newest `kept`. Not while is measured."""
        names = sorted(path.name for path in self._published.iterdir() if path.name.isdigit())
        for name in names[: len(names) - kept]:
            shutil.rmtree(self._published / name)
