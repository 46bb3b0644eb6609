"""How much of the machine others have used meanwhile: what makes figures worthless without being seen in them."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path


class Neighbours:
    """Counts from when it is made. Children of this process count as ours once they have ended and been waited for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others_s = _all_s() - _ours_s()

    def cores(self) -> float:
        """How many cores others had on average; 0 where the system does not tell."""
        return max(0.0, (_all_s() - _ours_s() - self._others_s) / (time.monotonic() - self._began))


def _all_s() -> float:
    """Seconds of all cores: user, nice, system, and steal, which a virtual machine's host has given to others."""
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    return sum(int(ticks[place]) for place in (0, 1, 2, 7)) / float(os.sysconf("SC_CLK_TCK"))


def _ours_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
