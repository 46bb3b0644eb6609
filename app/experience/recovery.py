"""The files in a policy's folder → the segments that a process which ended has left, and what they say."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from app.experience import closed_segment, open_segment
from app.experience.closed_segment import ClosedSegment
from app.experience.open_segment import OpenSegment

log = logging.getLogger("policy_server.experience")


# The names of segments are numbers: what else lies in the folder is somebody else's.
_NUMBER = "[0-9]" * 16


class Left(NamedTuple):
    """The segments in a folder, the oldest first. `open`: each with what was noted behind its rows."""

    closed: list[ClosedSegment]
    open: list[tuple[OpenSegment, dict[bytes, bytes]]]


def segments_in(folder: Path) -> Left:
    """Opens the segments in a folder, each once; nothing that was appended is lost.

    Raises:
      OSError: the folder cannot be used.
    """
    for leftover in folder.glob(f"*{open_segment.PARTIAL_SUFFIX}"):
        leftover.unlink()
    paths = sorted(folder.glob(f"{_NUMBER}{closed_segment.SUFFIX}"))
    stems = {path.stem for path in paths}
    growing = []
    for path in sorted(folder.glob(f"{_NUMBER}{open_segment.SUFFIX}")):
        if path.stem in stems:
            path.unlink()  # all of it is in the Parquet file
        elif (found := _recovered(path)) is not None:
            growing.append(found)
    starts = sorted([int(path.stem) for path in paths] + [segment.first for segment, _ in growing])
    ends = dict(itertools.pairwise(starts))
    closed = []
    for path in paths:
        first = int(path.stem)
        end = ends.get(first) or first + _rows_in(path)
        closed.append(ClosedSegment(path, first, end, path.stat().st_mtime))
    return Left(closed, growing)


def newest_metadata(closed: Sequence[ClosedSegment]) -> dict[bytes, bytes]:
    """Returns the metadata of the newest closed segment that can be read; {} where there is none."""
    for segment in reversed(closed):
        try:
            return closed_segment.metadata_in(segment.path)
        except (OSError, pa.ArrowException) as error:
            log.error("%s cannot be read: %s", segment.path, error)
    return {}


def _recovered(path: Path) -> tuple[OpenSegment, dict[bytes, bytes]] | None:
    """Opens a segment that rows were appended to; None, and it is put aside, where nothing in it can be read."""
    try:
        return OpenSegment.recover(path)
    except (OSError, ValueError, KeyError) as error:
        log.error("%s cannot be read, and is put aside: %s", path, error)
        path.rename(path.with_suffix(".unreadable"))
        return None


def _rows_in(path: Path) -> int:
    try:
        return closed_segment.rows_in(path)
    except (OSError, pa.ArrowException):
        return 0
