"""Checkpoints that were written long ago → the same written anew, as a trainer would, for one server of several."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import BenchError


class Prewritten:
    """See `bench.swaps.checkpoints.Writer`. Each checkpoint of `folder` is written once, in order."""

    def __init__(self, folder: Path) -> None:
        self._left = sorted(folder.iterdir())

    @property
    def count(self) -> int:
        """How many are left."""
        return len(self._left)

    def checkpoint(self, parent: Path) -> str:
        """Copies the next one into `parent`, and returns its name."""
        if not self._left:
            raise BenchError("no checkpoint is left to be published")
        source = self._left.pop(0)
        shutil.copytree(source, parent / source.name)
        return source.name
