"""Threads that give way are nice, and give their core to whoever wakes up, and no other thread of the process does."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.background import LeftoverTime, give_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own there")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def slice_ns() -> int | None:
    """That of this thread; None where the kernel does not say."""
    said = Path("/proc/thread-self/sched")
    found = [line.split()[-1] for line in said.read_text().splitlines() if "slice" in line] if said.exists() else []
    return int(found[0]) if found else None


def started_by_it() -> tuple[int, int | None]:
    """The niceness and the slice of a thread that this one starts."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(niceness).result(), executor.submit(slice_ns).result()


def test_a_thread_and_those_that_it_starts_give_way() -> None:
    before = niceness(), slice_ns()
    with ThreadPoolExecutor(1, initializer=give_way) as executor:
        own = executor.submit(niceness).result(), executor.submit(slice_ns).result()
        assert executor.submit(started_by_it).result() == own
    assert own[0] == min(19, before[0] + 10)
    kernel = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    assert before[1] is None or own[1] == 100_000_000 or kernel < (6, 12)
    assert (niceness(), slice_ns()) == before


def test_a_process_gives_way_as_a_whole_where_it_leads_a_session_that_shares_the_cores_with_others() -> None:
    """As the builder and the recorder do; whoever started them keeps its share."""
    file = Path("/proc/self/autogroup")
    before = file.read_text() if file.exists() else ""
    code = "from app.background import give_way\ngive_way()\nprint(open('/proc/self/autogroup').read())"
    if before:
        said = subprocess.run(
            [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True
        ).stdout
        assert said.split() in (
            [],
            [said.split()[0], "nice", "10"],
        )  # empty where this process is in a group of cgroups
        assert file.read_text() == before


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_call_runs_on_leftover_time_and_in_the_callers_thread_after_one_that_took_too_long() -> None:
    clock = Clock()
    leftover = LeftoverTime(most_s=0.5, own_s=10.0, clock=clock)

    def ran(seconds: float) -> int:
        clock.now += seconds
        return os.sched_getscheduler(0)

    assert [leftover.run(lambda: ran(0.4)), leftover.run(lambda: ran(0.6))] == [os.SCHED_IDLE] * 2
    assert [leftover.run(lambda: ran(6.0)), leftover.run(lambda: ran(6.0))] == [os.sched_getscheduler(0)] * 2
    assert leftover.run(lambda: ran(0.1)) == os.SCHED_IDLE
    with pytest.raises(ValueError, match="of the call"):
        leftover.run(lambda: int("of the call"))
    leftover.close()
