"""What gives way to threads that answer requests: the builder, the recorder, and threads that fetch files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# What answers requests gets about nine times as much of a contended core.
_NICENESS = 10
# Linux has a thread run for some milliseconds before it gives its core to one that wakes up, however nice it is; unless
# its own slice of time is the longer one, which can be set from 6.12 on. Longer ones are not allowed.
_SLICE_NS = 100_000_000
# Linux may share its cores among sessions first (CONFIG_SCHED_AUTOGROUP, sched(7)); niceness counts within one only.
# That of a session among others is written here, and may be lowered again without a privilege.
_AUTOGROUP = Path("/proc/self/autogroup")
_SYSCALLS = {"x86_64": 314, "aarch64": 274}  # sched_setattr, for which C libraries have no function yet
_SIZE, _ATTRIBUTES = 48, "<IIQiIQQQ"  # size, policy, flags, niceness, priority; slice, deadline, period (ns)
# What works in turns: for so long, and then it rests for so long.
_TURN_S, _REST_S = 0.0005, 0.004
_LOAD = Path("/proc/loadavg")
_CORES = os.cpu_count() or 1
_turns = threading.local()


def give_way() -> None:
    """Has this thread, and those that it starts from now on, give way; does what the system can do of it."""
    if sys.platform != "linux":  # where a thread has no niceness of its own
        if threading.current_thread() is threading.main_thread():
            os.nice(_NICENESS)
        return
    os.nice(_NICENESS)
    if os.sched_getscheduler(0) == os.SCHED_OTHER and platform.machine() in _SYSCALLS:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = struct.pack(_ATTRIBUTES, _SIZE, os.SCHED_OTHER, 0, niceness, 0, _SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(_SYSCALLS[platform.machine()], 0, attributes, 0)  # where it is refused, it stays nice


def all_cores_are_wanted() -> bool:
    """Returns whether more threads run on this machine, or wait for a core, than it has cores; False if unknown."""
    try:
        return int(_LOAD.read_bytes().split()[3].partition(b"/")[0]) > _CORES
    except (OSError, ValueError, IndexError):
        return False


@contextlib.contextmanager
def resting(
    most_s: float, wanted: Callable[[], bool] = all_cores_are_wanted, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Has `rest` sleep in this thread within the block, where cores are `wanted`: so many seconds together at most."""
    _turns.rests = _Rests(most_s, wanted, sleep)
    try:
        yield
    finally:
        del _turns.rests


def rest() -> None:
    """Sleeps a while where all cores are wanted and this thread has worked for half a ms since it did: see `resting`.

    What answers requests on the same core then loses half a ms at a time, and has caught up by the next one.
    """
    rests: _Rests | None = getattr(_turns, "rests", None)
    if rests is not None:
        rests.rest()


class _Rests:
    """Those of one thread."""

    def __init__(self, most_s: float, wanted: Callable[[], bool], sleep: Callable[[float], None]) -> None:
        self._left_s = most_s
        self._wanted = wanted
        self._sleep = sleep
        self._began_s = time.thread_time()

    def rest(self) -> None:
        if self._left_s < _REST_S or time.thread_time() - self._began_s < _TURN_S:
            return
        if self._wanted():
            self._left_s -= _REST_S
            self._sleep(_REST_S)
        self._began_s = time.thread_time()


def set_session_niceness(niceness: int) -> bool:
    """Has this process give way as a whole, where it leads a session and the system shares cores among sessions.

    Returns whether it does so: the system refuses changes within a tenth of a second.
    """
    if os.getsid(0) != os.getpid():
        return False
    try:
        _AUTOGROUP.write_text(str(niceness))
    except OSError:
        return False
    return True
