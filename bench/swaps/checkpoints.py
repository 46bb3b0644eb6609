"""Checkpoints written beforehand → published one by one, each in an instant."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from saver.artifact.publishing import sync_tree

_KEPT = 5  # as a trainer with `save_checkpoint(…, keep_last=5)`


class Writer(Protocol):
    """What writes checkpoints: `Trainer`."""

    def checkpoint(self, parent: Path) -> str:
        """Writes the next one into `parent`, and returns its name."""


class Checkpoints:
    """Those that are ready, in a folder that no server looks into, and those that are published to `policy`.

    `copies`: exports of the same policy, with a folder for what is ready each; the same is published there, too.
    """

    def __init__(self, writer: Writer, policy: Path, ready: Path, copies: Mapping[Path, Path] | None = None) -> None:
        self._writer = writer
        self._published = policy / "checkpoints"
        self._ready = ready
        self._copies = {copy / "checkpoints": place for copy, place in (copies or {}).items()}
        self._names: list[str] = []
        for folder in (self._published, *self._copies):
            folder.mkdir(exist_ok=True)
        for folder in (self._ready, *self._copies.values()):
            folder.mkdir()

    def prepare(self, count: int) -> None:
        """Writes `count` more. The saver syncs them to the disk: nothing of them is written while is measured."""
        for _ in range(count):
            name = self._writer.checkpoint(self._ready)
            for place in self._copies.values():
                shutil.copytree(self._ready / name, place / name)
                sync_tree(place / name)
            self._names.append(name)

    @property
    def upcoming(self) -> str:
        """The name of the next one."""
        return self._names[0]

    def publish(self) -> tuple[str, float]:
        """Renames the next one into place; its name, and when that was done (`time.perf_counter`)."""
        name = self._names.pop(0)
        for published, ready in {self._published: self._ready, **self._copies}.items():
            os.rename(ready / name, published / name)
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
        for folder in (self._published, *self._copies):
            names = sorted(path.name for path in folder.iterdir() if path.name.isdigit())
            for name in names[: len(names) - kept]:
                shutil.rmtree(folder / name)
