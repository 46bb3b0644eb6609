"""What libraries print on standard error is silenced, from C++ too; where something fails, all of it is shown."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saver.stderr import hushed

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from saver.stderr import hushed
print("before", file=sys.stderr)
with hushed():
    print("from Python", file=sys.stderr)
    os.write(2, b"from C++\\n")
print("after", file=sys.stderr)
"""


def test_nothing_reaches_standard_error_within() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "before\nafter\n"


def test_after_an_exception_all_of_it_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with hushed():
            os.write(2, b"what led to it\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "what led to it\nafter\n"


def test_no_descriptor_is_left_open() -> None:
    gc.collect()  # what tests before have left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with hushed():
            pass
    assert len(os.listdir("/proc/self/fd")) <= before
