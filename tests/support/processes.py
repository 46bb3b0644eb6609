"""What the kernel says of a process in /proc, see proc(5). It goes on meanwhile, or ends: neither is an error here."""

import os
from pathlib import Path

STOPPED, ENDED = "T", ""


def state(pid: int) -> str:
    """One letter; `ENDED` too where nobody has waited for it yet."""
    letter = read(pid, "stat").rpartition(")")[2].split()[:1]
    return ENDED if letter in ([], ["Z"]) else letter[0]


def runs(pid: int) -> bool:
    """Whether it computes or waits, and has neither ended nor been stopped."""
    return state(pid) not in (ENDED, STOPPED)


def read(pid: int, name: str) -> str:
    """One of its files; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def listed(pid: int, folder: str) -> list[str]:
    """The names in one of its folders, such as `fd` or `task`; none where the process has ended."""
    try:
        return os.listdir(f"/proc/{pid}/{folder}")
    except OSError:
        return []


def descriptors(pid: int) -> list[str]:
    """Where its file descriptors lead; one that is closed meanwhile is left out."""
    found = []
    for name in listed(pid, "fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


def children(pid: int, module: str = "") -> list[int]:
    """The ids of the processes that it has started: those that run `module` of Python, or all; the oldest first."""
    found = [int(child) for task in listed(pid, "task") for child in read(pid, f"task/{task}/children").split()]
    return sorted(child for child in found if not module or module in read(child, "cmdline").split("\0"))
