"""Distributions of TF-Agents in plain exports, read where TF-Agents is not imported: as TF-Agents has them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver
from tf_agents.trajectories import time_step as ts

from app.engine.savedmodel.missing_types import explained, import_what_is_missing
from saver.distributions import flatten
from tests.support.server import ROOT
from tests.zoo.kinds import KINDS, make

OBSERVATIONS = {
    "sac": np.array([[0.5, -1.0, 0.25, 2.0], [0.0, 0.0, 0.0, 0.0]], np.float32),
    "action-shifted": np.array([[0.5, -1.0, 0.25, 2.0], [3.0, 0.0, -2.0, 0.0]], np.float32),
    "family-masked": {
        "board": np.array([[0.5, -1.0, 0.25, 2.0], [1.0, 0.0, 0.0, 0.0]], np.float32),
        "mask": np.array([[1, 0, 1], [0, 1, 1]], np.int32),
    },
    "action-shifted-masked": {
        "board": np.array([[0.5, -1.0, 0.25, 2.0], [1.0, 0.0, 0.0, 0.0]], np.float32),
        "mask": np.array([[1, 0, 1], [0, 1, 1]], np.int32),
    },
}
READ = """
import json, sys
from pathlib import Path
import numpy as np
from app.builder.open_export import open_export
from app.engine.savedmodel.load import load_copy
folder, answers = Path(sys.argv[1]), {}
for name, sent in json.loads(sys.argv[2]).items():
    graph = open_export(folder / name, folder / "graphs")
    if sent is None:
        answers[name] = graph.serving.unavailable["distribution"]
        continue
    inputs = {n: np.array(sent[n], t.dtype) for n, t in graph.spec.signatures["action"].inputs.items()}
    outputs = load_copy(graph).run("distribution", inputs)
    answers[name] = {n: a.astype(float).tolist() for n, a in outputs.items()}
assert not [name for name in sys.modules if name.split(".")[0] == "tf_agents"]
print(json.dumps(answers))
"""


def test_they_are_read_as_tf_agents_has_them(tmp_path: Path) -> None:
    sent: dict[str, object] = {}
    expected = {}
    for name, observation in OBSERVATIONS.items():
        policy = make(KINDS[name], seed=3)
        policy_saver.PolicySaver(policy).save(str(tmp_path / name))
        step = ts.restart(tf.nest.map_structure(tf.constant, observation), batch_size=2)
        flat = flatten(policy.distribution(step).action)
        expected[name] = {f"action/{n}": tensor.numpy() for n, tensor in (flat.parameters | flat.statistics).items()}
        names = {"0/step_type": step.step_type, "0/reward": step.reward, "0/discount": step.discount}
        parts = observation if isinstance(observation, dict) else {"": observation}
        sent[name] = {n: t.numpy().tolist() for n, t in names.items()} | {
            f"0/observation/{part}".rstrip("/"): array.tolist() for part, array in parts.items()
        }
    policy_saver.PolicySaver(make(KINDS["family-gumbel-softmax"], seed=3)).save(str(tmp_path / "gumbel"))
    sent["gumbel"] = None
    command = [sys.executable, "-c", READ, str(tmp_path), json.dumps(sent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers.pop("gumbel") == "GumbelSoftmax is a family without a flat form"
    for name, outputs in expected.items():
        assert answers[name].keys() == outputs.keys()
        for output, array in outputs.items():
            np.testing.assert_allclose(answers[name][output], array.astype(float), rtol=1e-6, atol=1e-6, err_msg=name)


def said(name: str) -> str:
    return f"The type '{name}_ACTTypeSpec' has not been registered.  It must be registered before you load this object"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my.trainer.Own", "its distribution function returns my.trainer.Own, a class of the program that saved it"),
        ("tf_agents.coming.New", "tf_agents.coming.New, which TF-Agents 0.19.0 here does not have"),
    ],
)
def test_what_is_missing_is_explained(name: str, expected: str) -> None:
    assert expected in explained(said(name))
    assert "\n" not in explained(said(name))
    assert not import_what_is_missing(said(name))


def test_other_errors_stay_as_they_are() -> None:
    assert explained("SavedModel file does not exist") == "SavedModel file does not exist"
    assert not import_what_is_missing("SavedModel file does not exist")
