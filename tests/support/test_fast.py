"""The fast set holds what it says: no TensorFlow and no server, whoever writes the next test."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fast import ROOT, is_fast

SLOW_ONES = [
    "import tensorflow as tf",
    "from tf_agents.trajectories import time_step",
    "def test_it():\n    import tensorflow",
    "from saver import PolicySaver",
    "from app.builder.compile import compile_policy",
    "from tests.support import policies",
    "def test_it():\n    from tests.support.saver_policies import Saved",
    "from tests.support.server import serving",
    "from app.testing import serving",
    "import subprocess",
    "try:\n    import tf_keras\nexcept ImportError:\n    pass",
]
FAST_ONES = [
    "import numpy as np",
    "import saver",
    "from saver.artifact import write_checkpoint_manifest",
    "from app.control.plan import next_target",
    "from tests.support.server import ROOT, RunningServer",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass",
    "import client",
]


@pytest.mark.parametrize("text", SLOW_ONES)
def test_what_imports_tensorflow_or_starts_programs_is_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(text)
    assert not is_fast(tmp_path / "test_it.py")


@pytest.mark.parametrize("text", FAST_ONES)
def test_what_does_neither_is_in(text: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(text)
    assert is_fast(tmp_path / "test_it.py")


def test_a_conftest_may_import_tensorflow_within_its_fixtures(tmp_path: Path) -> None:
    for folder, text in (("late", "def exports():\n    import tensorflow"), ("at_once", "import tensorflow")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "conftest.py").write_text(text)
    assert is_fast(tmp_path / "late" / "conftest.py")
    assert not is_fast(tmp_path / "at_once" / "conftest.py")


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_the_whole_set_is_collected_without_tensorflow() -> None:
    program = """
import sys, pytest
status = pytest.main(["--fast", "--collect-only", "-q", "-p", "no:cacheprovider"])
print(int(status), sorted(name for name in sys.modules if name.startswith(("tensorflow.", "tf_agents.", "keras"))))
print(sys.modules["tensorflow"])
"""
    *_, counted, loaded, tensorflow = run(program).stdout.splitlines()
    assert (loaded, tensorflow) == ("0 []", "None")
    collected, _, all_tests = counted.split()[0].partition("/")
    assert int(collected) > 1500, all_tests


@pytest.mark.parametrize(
    ("tried", "refusal"),
    [
        ("import tensorflow", "import of tensorflow halted"),
        ("from saver import PolicySaver", "tf_keras is not installed"),
        ("import app.engine.savedmodel.load", "halted"),
        ("import app.testing\napp.testing.start({}, log=__import__('pathlib').Path('/dev/null'))", "starts no server"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'saver', '--help'])", "starts no server"),
    ],
)
def test_a_wrong_guess_is_an_error(tried: str, refusal: str) -> None:
    done = run(f"from tests.support.fast import keep_out\nkeep_out()\n{tried}")
    assert done.returncode == 1
    assert refusal in done.stderr.splitlines()[-1]
