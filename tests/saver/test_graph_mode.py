"""Saving inside a graph and session of TensorFlow 1's kind, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import tensorflow as tf
from tf_agents.trajectories import time_step

from saver.artifact import check_files, read_checkpoint_manifest, read_policy_manifest

CHILD = """
import sys
import tensorflow as tf
from saver import PolicySaver
from tests.support import saver_policies as policies

folder = sys.argv[1]
with tf.compat.v1.Graph().as_default(), tf.compat.v1.Session().as_default() as session:
    step, seen = (tf.compat.v2.Variable(value, dtype=tf.int64) for value in (41, 7))
    saver = PolicySaver(policies.q_lstm(), train_step=step, metadata={"seen": seen})
    session.run(tf.compat.v1.global_variables_initializer())
    saver.save(folder + "/export")
    session.run([step.assign(42), seen.assign(8)])
    saver.save_checkpoint(folder + "/checkpoint")
    saver.save(folder + "/export")
    print(session.run([saver.get_train_step(), saver.get_metadata()["seen"]]))
    try:
        PolicySaver(policies.q())
    except ValueError as error:
        print(error)
"""


def test_graph_mode_writes_exports_and_checkpoints_with_their_manifests(tmp_path):
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    values, error = done.stdout.splitlines()[-2:]
    assert json.loads(values) == [42, 8]
    assert error.startswith("train_step is required in TF1")

    policy, checkpoint = read_policy_manifest(tmp_path / "export"), read_checkpoint_manifest(tmp_path / "checkpoint")
    assert policy is not None
    check_files(tmp_path / "export", policy.files)
    assert policy.policy_class == "QPolicy"
    assert set(policy.spec.signatures) == {"action", "get_initial_state", "get_train_step", "get_metadata"}
    assert checkpoint is not None
    check_files(tmp_path / "checkpoint", checkpoint.files)
    assert checkpoint.train_step == 42
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "export"]

    model = tf.saved_model.load(str(tmp_path / "export"))
    assert int(model.get_train_step()) == 42
    assert int(model.get_metadata()["seen"]) == 8
    tf.train.Checkpoint(policy=model).read(str(tmp_path / "checkpoint/variables/variables")).assert_consumed()
    first = time_step.restart(tf.zeros([3, 4]), 3)
    assert model.action(first, model.get_initial_state(batch_size=3)).action.shape == (3,)
