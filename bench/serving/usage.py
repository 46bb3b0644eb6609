"""A process and all that it has started → the CPU time that they have used, the memory that they hold; from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
# Places in /proc/PID/stat after the name, which may hold anything and ends with the last bracket.
_PARENT, _USER, _SYSTEM, _STARTED = 1, 11, 12, 19


def family(pid: int) -> list[int]:
    """The process and its descendants; those that have ended are none."""
    children = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (words := _stat(int(folder.name))):
            children[int(words[_PARENT])].append(int(folder.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def cpu_s(pids: list[int]) -> float:
    """Seconds in user and in system mode that these processes, with all their threads, have used so far."""
    return sum(int(words[_USER]) + int(words[_SYSTEM]) for pid in pids if (words := _stat(pid))) / float(_TICKS)


def resident_mb(pids: list[int]) -> float:
    """What they hold, in 10⁶ bytes; what two of them share counts twice."""
    return sum(_resident_pages(pid) for pid in pids) * _PAGE_MB


def running_module(pids: list[int], module: str) -> list[int]:
    """Those of them that run a Python module."""
    return [pid for pid in pids if module.encode() in _read(pid, "cmdline").split(b"\0")]


def identified(pids: list[int]) -> list[tuple[int, bytes]]:
    """Each with the time of its start: a number alone may belong to another process later."""
    return [(pid, words[_STARTED]) for pid in pids if (words := _stat(pid))]


def kill(processes: list[tuple[int, bytes]]) -> None:
    """Those that are still there."""
    for pid, begun in processes:
        if (words := _stat(pid)) and words[_STARTED] == begun:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _resident_pages(pid: int) -> int:
    words = _read(pid, "statm").split()
    return int(words[1]) if words else 0


def _stat(pid: int) -> list[bytes]:
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, name: str) -> bytes:
    """Empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
