"""TF-Agents gets Keras 2, or one line says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from saver import legacy_keras
from tests.support.server import ROOT

SHOWN = "import os; print(os.environ.get('TF_USE_LEGACY_KERAS'))"


def last_line(program: str, *paths: Path, **env: str) -> str:
    """What a program prints last, in a bare environment; its error, where it has one."""
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(map(str, [*paths, ROOT]))} | env
    done = subprocess.run([sys.executable, "-c", program], cwd="/", env=bare, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()[-1]


def installed(folder: Path, tensorflow: str, tf_keras: bool, keras: str | None = None) -> Path:
    """A folder in which such libraries seem to be installed."""
    information = folder / f"tensorflow-{tensorflow}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {tensorflow}\n")
    (folder / "tensorflow.py").write_text(f"class keras:\n    __version__ = {keras!r}\n" if keras else "")
    if tf_keras:
        (folder / "tf_keras.py").write_text("")
    else:
        (folder / "sitecustomize.py").write_text(
            "import importlib.util as util\nfind = util.find_spec\n"
            "util.find_spec = lambda name, *more: None if name == 'tf_keras' else find(name, *more)\n"
        )
    return folder


@pytest.mark.parametrize(
    ("tensorflow", "tf_keras", "wish"),
    [
        ("2.15.1", False, "None"),
        ("2.15.1", True, "None"),
        ("2.16.0rc1", True, "1"),
        ("2.21.0", True, "1"),
        ("2.21.0", False, "None"),
        ("3.0.0", True, "1"),
    ],
)
def test_importing_saver_asks_for_keras_2_where_that_is_needed_and_possible(tmp_path, tensorflow, tf_keras, wish):
    assert last_line(f"import saver; {SHOWN}", installed(tmp_path, tensorflow, tf_keras)) == wish


@pytest.mark.parametrize("wish", ["0", "1", "true", ""])
def test_a_wish_that_stands_in_the_environment_stays(wish):
    assert last_line(f"import saver; {SHOWN}", TF_USE_LEGACY_KERAS=wish) == wish


def test_tensorflow_that_is_there_already_is_left_alone(tmp_path):
    program = f"import tensorflow, saver; {SHOWN}"
    assert last_line(program, installed(tmp_path, "2.21.0", True)) == "None"


SAVER = "from saver import PolicySaver"
FIRST = "import tensorflow; "


@pytest.mark.parametrize(
    ("tensorflow", "tf_keras", "keras", "program", "env", "says"),
    [
        ("2.21.0", True, "3.15.1", FIRST + SAVER, {}, "import saver before TensorFlow, or set TF_USE_LEGACY_KERAS=1"),
        ("2.21.0", False, "3.15.1", FIRST + SAVER, {}, "pip install tf_keras"),
        ("2.21.0", False, None, SAVER, {}, "pip install tf_keras"),
        ("2.21.0", True, None, SAVER, {"TF_USE_LEGACY_KERAS": "0"}, "set TF_USE_LEGACY_KERAS=1, now it is '0'"),
        ("2.21.0", False, None, SAVER, {"TF_USE_LEGACY_KERAS": "1"}, "pip install tf_keras"),
        ("2.15.1", False, None, SAVER, {"TF_USE_LEGACY_KERAS": "1"}, "leave it unset"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(tmp_path, tensorflow, tf_keras, keras, program, env, says):
    line = last_line(program, installed(tmp_path, tensorflow, tf_keras, keras), **env)
    assert line.startswith("ImportError: ")
    assert says in line


def test_what_the_real_libraries_do_is_said_too():
    """TensorFlow is imported first, with nothing in the environment."""
    assert last_line(f"import tensorflow; {SAVER}") == (
        "ImportError: TensorFlow was imported with Keras 3, and TF-Agents needs Keras 2: "
        "import saver before TensorFlow, or set TF_USE_LEGACY_KERAS=1 before both"
    )


def test_here_nothing_is_wrong():
    legacy_keras.check()
