"""Python code in a policy works in the process that saves it, and in no other: this is said where it can be mended."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from saver import PolicySaver
from saver.artifact import read_policy_manifest
from saver.impure_ops import python_code
from saver.policy_saver import PythonCodeWarning
from tests.support.saver_policies import ACTION, CARTPOLE
from tests.support.server import ROOT


def doubled(x: Any) -> Any:
    return (x * 2).astype(np.float32)


WAYS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "numpy_function": (
        lambda x: tf.numpy_function(doubled, [x], tf.float32),
        ["numpy_function of doubled (PyFunc PyFunc)"],
    ),
    "py_function": (
        lambda x: tf.py_function(doubled, [x], tf.float32),
        ["py_function of doubled (EagerPyFunc EagerPyFunc)"],
    ),
    "stateless": (
        lambda x: tf.numpy_function(doubled, [x], tf.float32, stateful=False),
        ["numpy_function of doubled (PyFuncStateless PyFuncStateless)"],
    ),
    "in a loop in a branch": (
        lambda x: tf.cond(tf.reduce_any(x > 0), lambda: tf.map_fn(WAYS["numpy_function"][0], x), lambda: x),
        ["numpy_function of doubled (PyFunc cond/map/while/PyFunc)"],
    ),
    "in a function": (
        lambda x: tf.function(lambda y: tf.py_function(doubled, [y], tf.float32))(x),
        ["py_function of doubled (EagerPyFunc EagerPyFunc)"],
    ),
    "TensorFlow alone": (lambda x: tf.map_fn(lambda row: row * 2, x), []),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_python_code_is_found_wherever_it_is(way: str) -> None:
    run, expected = WAYS[way]
    function = tf.function(run, input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    assert python_code(function.get_concrete_function()) == expected


class PythonPolicy(tf_policy.TFPolicy):
    """Its action is made with Python code."""

    def __init__(self) -> None:
        super().__init__(ts.time_step_spec(CARTPOLE), ACTION)
        self._weight = tf.Variable(1.0)

    def _variables(self) -> list[tf.Variable]:
        return [self._weight]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        observation = tf.reshape(tf.numpy_function(doubled, [time_step.observation], tf.float32), [-1, 4])
        return policy_step.PolicyStep(tf.cast(observation[:, 0] * self._weight > 0, tf.int64), policy_state, ())

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def test_save_warns_of_it_and_notes_it(tmp_path: Path) -> None:
    with pytest.warns(PythonCodeWarning, match=r"cannot be served.*action: numpy_function of doubled \(PyFunc "):
        PolicySaver(PythonPolicy()).save(tmp_path / "policy")
    code = json.loads((tmp_path / "policy" / "policy.json").read_text())["python_code"]
    assert code == ["action: numpy_function of doubled (PyFunc PyFunc)"]
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    assert list(manifest.python_code) == code


def test_save_says_nothing_of_others(saved: Any) -> None:
    assert "python_code" not in json.loads((saved.folder("q") / "policy.json").read_text())


CHILD = """
import sys
from pathlib import Path
from app.errors import Unsupported
from app.engine.savedmodel.load import load_copy
from app.builder.open_export import open_export
from saver.artifact.probe import probe_inputs
graph = open_export(Path(sys.argv[1]), Path(sys.argv[2]))
print(*graph.python_code)
engine = load_copy(graph)
try:
    engine.run("action", probe_inputs(graph.spec, engine.initial_state(2), 2))
except Unsupported as error:
    print(error)
"""


def test_another_process_says_what_is_missing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy_saver.PolicySaver(PythonPolicy()).save(str(tmp_path / "policy"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "policy"), str(tmp_path / "graphs")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, error = done.stdout.splitlines()[-2:]
    assert code == "action: numpy_function (PyFunc PyFunc)"
    assert error.startswith(
        "action runs Python code (numpy_function or py_function), which stayed in the process that saved"
    )
