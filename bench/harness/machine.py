"""What figures were measured on, and how much of it others have used meanwhile: what spoils them without being seen."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness.command import progress

_BUSY_CORES = 0.15
_BUSY_LOAD = 0.5


def machine() -> dict[str, Any]:
    """The processor, its cores, and how busy they are before anything is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
    }


def warning_before(on: dict[str, Any]) -> str:
    """What is to be said of a machine that is busy already; empty where it is not."""
    if on["load_average"] <= _BUSY_LOAD:
        return ""
    return f"the machine is busy (load average {on['load_average']}): the figures will not be worth keeping"


def warning_after(on: dict[str, Any]) -> str:
    """What is to be said of others, with `others_cores` from `Neighbours.cores`; empty where they kept quiet."""
    if on["others_cores"] <= _BUSY_CORES:
        return ""
    return f"! others used {on['others_cores']} of {on['cores']} cores meanwhile: these figures are not worth keeping"


class Neighbours:
    """Counts from when it is made. Children of this process count as ours once they have ended and been waited for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others_s = _all_s() - _ours_s()

    def cores(self) -> float:
        """How many cores others had on average; 0 where the system does not say."""
        return max(0.0, (_all_s() - _ours_s() - self._others_s) / (time.monotonic() - self._began))


@contextlib.contextmanager
def measuring(name: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yields the machine, and a folder that goes with the block; warns before, and notes `others_cores` at the end."""
    if busy := warning_before(on := machine()):
        progress(busy)
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        yield on, Path(folder)
    on["others_cores"] = round(neighbours.cores(), 2)


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
