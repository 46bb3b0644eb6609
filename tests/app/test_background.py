"""Threads that give way are nice, and give their core to whoever wakes up, and no other thread of the process does."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.background import all_cores_are_wanted, give_way, rest, resting, set_session_niceness

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


def worked(milliseconds: float) -> None:
    """Returns when this thread has run for so long."""
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        pass


def test_what_works_in_turns_rests_where_all_cores_are_wanted_and_not_for_ever() -> None:
    slept: list[float] = []
    cores = iter([True, False, True, True])
    with resting(0.01, lambda: next(cores), slept.append):
        rest()  # has not worked yet
        assert not slept
        for expected in (1, 1, 2, 2, 2):  # the second time nobody else wants a core; then it has rested for long enough
            worked(0.6)
            rest()
            rest()
            assert slept == [0.004] * expected
    worked(0.6)
    rest()  # nobody has asked for it any more
    assert len(slept) == 2


def test_a_thread_that_works_on_is_counted_among_those_that_want_a_core() -> None:
    code = "while True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range((os.cpu_count() or 1) + 1)]
    try:
        for _ in range(1000):
            if all_cores_are_wanted():
                break
            time.sleep(0.01)
        else:
            pytest.fail("nobody noticed")
    finally:
        for each in busy:
            each.kill()
            each.wait()


def test_a_process_that_leads_a_session_gives_way_as_a_whole_and_hurries_again() -> None:
    """For nothing else it is written: builder, workers and whoever started them keep their shares."""
    file = Path("/proc/self/autogroup")
    if not file.exists():
        pytest.skip("this kernel shares no cores among sessions")
    before = file.read_text()
    assert os.getsid(0) == os.getpid() or not set_session_niceness(7)
    said = subprocess.run([sys.executable, "-c", SHARES], start_new_session=True, capture_output=True, text=True).stdout
    assert said.split() == ["0", "19", "5"]
    assert file.read_text() == before


# The system takes changes once in a tenth of a second.
SHARES = """
import time
from app.background import give_way, set_session_niceness
said = lambda: print(open("/proc/self/autogroup").read().split()[-1])
give_way()
said()
for niceness in (19, 5):
    while not set_session_niceness(niceness):
        time.sleep(0.02)
    said()
"""
