"""What gives way to threads that answer requests: the builder, the recorder, and threads that fetch files."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
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
