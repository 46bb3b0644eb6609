"""Runs a command until it ends, or until the process that started this one has: `python run_child.py COMMAND…`.

Standard input is a pipe of which that process has the other end: however it ends, by SIGKILL too, the pipe does, and
then the command is stopped with SIGTERM. If this process is killed, the kernel sends the command that signal.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

# Longer than the server's own bound for finishing what it has accepted.
STOP_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1


class _Stopped(Exception):
    """SIGTERM or SIGINT has come."""


def main(words: Sequence[str]) -> int:
    """Returns the exit status of the command, negative where a signal ended it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped)
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent)
    with contextlib.suppress(_Stopped):
        _wait_for_end_of(child.pid)
    return _stop(child)


def _raise_stopped(*_: object) -> None:
    raise _Stopped


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_end_of(pid: int) -> None:
    """Returns when the process has ended, or the pipe; whoever holds its other end writes nothing."""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
        poll.register(ended, select.POLLIN)
        poll.poll()
    finally:
        os.close(ended)


def _stop(child: "subprocess.Popen[bytes]") -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # under way already
    if child.poll() is None:
        child.terminate()
    try:
        return child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
