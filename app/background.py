"""Threads that give way to those that answer requests: the builder's, and those that fetch files."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# What answers requests gets about nine times as much of a contended core.
_NICENESS = 10
_NICEST = 19
# Linux has a thread run for some milliseconds before it gives its core to one that wakes up, however nice it is; unless
# its own slice of time is the longer one, which can be set from 6.12 on. Longer ones are not allowed.
_SLICE_NS = 100_000_000
# Linux may share its cores among sessions first (CONFIG_SCHED_AUTOGROUP, sched(7)); niceness counts within one only.
# That of a session among others is written here, and may be lowered again without a privilege.
_AUTOGROUP = Path("/proc/self/autogroup")
_SYSCALLS = {"x86_64": 314, "aarch64": 274}  # sched_setattr, for which C libraries have no function yet
_SIZE, _ATTRIBUTES = 48, "<IIQiIQQQ"  # size, policy, flags, niceness, priority; slice, deadline, period (ns)


def give_way(niceness: int = _NICENESS) -> None:
    """Has this thread, and those that it starts from now on, give way; does what the system can do of it."""
    if sys.platform != "linux":  # where a thread has no niceness of its own
        if threading.current_thread() is threading.main_thread():
            os.nice(niceness)
        return
    os.nice(niceness)
    if threading.current_thread() is threading.main_thread():  # all threads of this process are to give way
        _set_session_niceness(niceness)
    if os.sched_getscheduler(0) == os.SCHED_OTHER and platform.machine() in _SYSCALLS:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = struct.pack(_ATTRIBUTES, _SIZE, os.SCHED_OTHER, 0, now, 0, _SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(_SYSCALLS[platform.machine()], 0, attributes, 0)  # where it is refused, it stays nice


class LeftoverTime:
    """Runs calls in a thread of its own on the time of the cores that nobody else wants at all.

    Where that is too little, a call takes longer than `most_s` seconds: for the next ones the caller's thread is used
    then, for `own_s` seconds, and has its share. One caller; a process that uses this has nothing else to hurry for.
    """

    def __init__(self, most_s: float, own_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._own_s, self._clock = most_s, own_s, clock
        self._executor = ThreadPoolExecutor(1, "leftover", take_leftover)
        self._own_until = -math.inf
        self._niceness = os.getpriority(os.PRIO_PROCESS, 0)

    def run(self, call: Callable[[], T]) -> T:
        """Calls; returns what it returns, and raises what it raises."""
        began = self._clock()
        if began < self._own_until:
            return call()
        _set_session_niceness(_NICEST)
        try:
            return self._executor.submit(call).result()
        finally:
            now = self._clock()
            if now - began > self._most_s:
                self._own_until = now + self._own_s
                _set_session_niceness(self._niceness)

    def close(self) -> None:
        """Ends the thread."""
        self._executor.shutdown()


def take_leftover() -> None:
    """Has this thread run on what time nobody else wants, from now on; a privilege is needed to change that again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _set_session_niceness(niceness: int) -> None:
    """Does so where this process leads a session. The system may refuse a change soon after another one."""
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(niceness))
