"""Busy polling: for a moment after an answer the event loop looks for the next request instead of sleeping.

A process that sleeps has to be woken up, which in a virtual machine costs both sides tens of microseconds. As in KVM's
halt polling (Documentation/virt/kvm/halt-polling.rst of Linux) it is done only where it pays: requests that do not
come in time have it left out more and more often, until one comes.
"""

from __future__ import annotations

import asyncio
import os
from time import perf_counter

# The turnaround of a simulator whose step is short; sleeping and waking up takes as long.
_WINDOW_S = 100e-6
# After a look that was in vain it is left out for twice as many answers as before, and for so many at most.
_MOST_LEFT_OUT = 64


class BusyPoll:
    """One for an event loop. It does nothing on one core, where whoever is to ask next could not run meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cores: int | None = None) -> None:
        self._loop = loop
        self._is_off = (cores or _cores()) < 2
        self._looks = False
        self._until = 0.0
        self._leave_out = self._to_leave_out = 0

    def answered(self) -> None:
        """Notes that requests were answered: the next may come soon."""
        if self._looks:  # it did
            self._to_leave_out = 0
            self._until = perf_counter() + _WINDOW_S
        elif self._leave_out:
            self._leave_out -= 1
        elif not self._is_off:
            self._looks = True
            self._until = perf_counter() + _WINDOW_S
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Runs once in every turn, none of which sleeps meanwhile."""
        if perf_counter() < self._until:
            self._loop.call_soon(self._look)
            return
        self._looks = False
        self._leave_out = self._to_leave_out = min(2 * self._to_leave_out + 1, _MOST_LEFT_OUT)


def _cores() -> int:
    """How many this process may use, as far as the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
