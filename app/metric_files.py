"""The files in which the processes of one server count together: read at once, and joined when a process has ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector


@contextlib.contextmanager
def together_in(folder: Path) -> Iterator[CollectorRegistry]:
    """Yields a registry with the counts of all processes."""
    together = CollectorRegistry()
    MultiProcessCollector(together, str(folder))  # type: ignore[no-untyped-call]
    with _lock(folder, fcntl.LOCK_SH):
        yield together


# Stands in the place of a process's id in the names of the files with the counts of ended processes.
_ENDED = "ended"


def join_ended(folder: Path) -> None:
    """Adds the counts of processes that have ended to one file of each kind, and deletes theirs.

    Or each process that was ever started again would have to be read for each scrape. While one runs, that is left for
    the next time. What a process that has ended held of a gauge that is added up counts no more.
    """
    for path in folder.glob("gauge_live*.db"):
        if _is_of_ended(path):
            path.unlink(missing_ok=True)
    with _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
        for path in sorted(folder.glob("*.db")) if locked else ():
            if _is_of_ended(path):
                kind = path.stem.rpartition("_")[0]
                _join(path, folder / f"{kind}_{_ENDED}.db", adds=not kind.startswith("gauge"))
                path.unlink()


def _is_of_ended(path: Path) -> bool:
    """Returns whether a file is that of a process, which has ended."""
    process = path.stem.rpartition("_")[2]
    if not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _join(path: Path, into: Path, adds: bool) -> None:
    """Adds counters and histograms up; of a gauge the last value counts."""
    together = MmapedDict(str(into))  # type: ignore[no-untyped-call]
    try:
        for key, value, at, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            known, known_at = together.read_value(key)  # type: ignore[no-untyped-call]
            if adds:
                together.write_value(key, known + value, 0.0)  # type: ignore[no-untyped-call]
            elif at >= known_at:
                together.write_value(key, value, at)  # type: ignore[no-untyped-call]
    finally:
        together.close()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _lock(folder: Path, how: int) -> Iterator[bool]:
    """Yields whether the files of the folder are locked inside the block."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, how)
        except OSError:  # in use; or a file system without locks
            locked = False
        yield locked
    finally:
        os.close(descriptor)
