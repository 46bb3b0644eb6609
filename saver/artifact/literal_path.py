"""A path of a folder that TensorFlow takes as it stands: the names of files that it reads are patterns to it."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_IN_PATTERNS = re.compile(r"[*?\[\\]")


@contextlib.contextmanager
def literal_path(folder: Path) -> Iterator[Path]:
    r"""Gives a path that leads to `folder` and has no `*`, `?`, `[` or `\` in it: its own, or that of a temporary link.

    TensorFlow would find no checkpoint in `hidden=[64,64]`, where it writes one.

    Raises:
      OSError: no link can be made.
    """
    if not _is_pattern(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="policy-saver.", dir=_parent()) as own:
        link = Path(own, "folder")
        link.symlink_to(folder.absolute())
        yield link


def _is_pattern(path: Path) -> bool:
    return _IN_PATTERNS.search(str(path)) is not None


def _parent() -> str:
    """The folder for temporary files; a batch system may name it after a job, as `1234[5]`."""
    usual = tempfile.gettempdir()
    return "/tmp" if _is_pattern(Path(usual)) else usual  # noqa: S108 — the folder made in it is new, and one's own
