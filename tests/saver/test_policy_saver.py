import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver
from tf_agents.trajectories import time_step

from saver import PolicySaver
from saver.artifact import check_files, hash_files, read_checkpoint_manifest, read_policy_manifest
from saver.verify import verify_folder
from tests.support import saver_policies as policies
from tests.support.saver_policies import Saved


@pytest.fixture
def trained() -> tuple[PolicySaver, tf.Variable]:
    """A saver and the train step that it saves."""
    train_step = tf.Variable(11, dtype=tf.int64)
    metadata = {"episodes": tf.Variable(5, dtype=tf.int64), "frames": tf.Variable(6, dtype=tf.int64)}
    return PolicySaver(policies.q(), train_step=train_step, metadata=metadata), train_step


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def first_steps(rows: int = 3) -> time_step.TimeStep:
    """Observations between the bounds, as the loaded policy takes them."""
    observation = tf.constant(np.random.default_rng(0).uniform(-0.4, 0.4, (rows, 4)), tf.float32)
    return time_step.restart(observation, rows)


def values(model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.model_variables]


SHARD = "variables/variables.data-00000-of-00001"
INDEX = "variables/variables.index"


# Exports


def test_export_has_the_files_of_the_format(saved: Saved):
    folder = saved.folder("q")
    model = {"saved_model.pb", SHARD, INDEX, "fingerprint.pb"}
    serving = {f"serving/{name}" for name in model}
    assert files_below(folder) == model | serving | {"policy_specs.pbtxt", "policy.json"}
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_manifest_knows_every_file_and_who_wrote_them(saved: Saved):
    folder = saved.folder("q")
    manifest = read_policy_manifest(folder)
    assert manifest is not None
    assert set(manifest.files) == files_below(folder) - {"policy.json"}
    check_files(folder, manifest.files)
    assert manifest.policy_class == "QPolicy"
    assert manifest.written_with == {"tensorflow": tf.__version__, "tf-agents": "0.19.0"}
    assert manifest.spec == saved.saver("q").spec()


def test_libraries_may_be_installed_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tensorflow-cpu and nightlies are: what a distribution is called says nothing."""

    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    PolicySaver(policies.q()).save(tmp_path / "policy", verify=False)
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    assert manifest.written_with == {"tensorflow": tf.__version__, "tf-agents": "0.19.0"}


def test_other_users_may_read_an_export(saved: Saved):
    assert saved.folder("q").stat().st_mode & 0o755 == 0o755


def test_plain_tf_agents_loads_the_export(saved: Saved):
    loaded = tf.saved_model.load(str(saved.folder("q")))
    live = saved.saver("q")
    steps = first_steps()
    np.testing.assert_array_equal(
        loaded.distribution(steps, ()).action.logits_parameter(),
        live._raw_policy.distribution(steps).action.logits_parameter(),
    )
    assert int(loaded.get_train_step()) == -1


def test_saving_over_an_export_replaces_it_and_keeps_its_checkpoints(tmp_path, trained):
    saver, train_step = trained
    folder = tmp_path / "policy"
    saver.save(folder)
    saver.save_checkpoint(folder / "checkpoints" / "0000000011")
    checkpoint = hash_files(folder, list((folder / "checkpoints").rglob("variables.*")))
    train_step.assign(12)
    saver._raw_policy.variables()[0].assign_add(tf.ones_like(saver._raw_policy.variables()[0]))
    saver.save(folder)

    assert int(tf.saved_model.load(str(folder)).get_train_step()) == 12
    manifest = read_policy_manifest(folder)
    assert manifest is not None
    check_files(folder, manifest.files)
    assert not any(name.startswith("checkpoints") for name in manifest.files)
    assert len(checkpoint) == 2
    check_files(folder, checkpoint)
    assert list(tmp_path.iterdir()) == [folder]


def test_failed_save_leaves_the_old_export_as_it_was(tmp_path, trained, monkeypatch):
    saver, _ = trained
    saver.save(tmp_path / "policy")
    before = hash_files(tmp_path, [p for p in tmp_path.rglob("*") if p.is_file()])

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("saver.policy_saver.write_policy_manifest", full_disk)
    with pytest.raises(OSError, match="no space left"):
        saver.save(tmp_path / "policy")
    with pytest.raises(OSError, match="no space left"):
        saver.save(tmp_path / "another")
    assert list(tmp_path.iterdir()) == [tmp_path / "policy"]
    assert hash_files(tmp_path, [p for p in tmp_path.rglob("*") if p.is_file()]) == before


@pytest.mark.parametrize("method", ["save", "save_checkpoint"])
def test_remote_folder_is_refused(trained, method):
    with pytest.raises(ValueError, match="'gs://bucket/policy': expected a local folder"):
        getattr(trained[0], method)("gs://bucket/policy")


def test_relative_folder_and_text_are_fine(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained[0].save_checkpoint("checkpoints/a")
    assert (tmp_path / "checkpoints" / "a" / "checkpoint.json").is_file()


@pytest.mark.parametrize("name", ["hidden=[64,64],lr=0.1", "a\\b", "a*?", "a b#%20é"])
def test_the_name_of_a_folder_may_have_any_character(tmp_path, trained, name):
    saver, folder = trained[0], tmp_path / name / "policy"
    saver.save(folder)
    saver.save_checkpoint(folder / "checkpoints" / "11")
    saver.save_checkpoint(folder / "checkpoints" / name)
    manifest = read_checkpoint_manifest(folder / "checkpoints" / name)
    assert manifest is not None
    assert manifest.train_step == 11
    findings = {finding.what: finding for finding in verify_folder(folder)}
    assert not [finding for finding in findings.values() if finding.result == "failed"]
    assert findings[f"checkpoints/{name}"].result == "ok"


# Checkpoints


def test_checkpoint_has_the_files_of_the_format_and_a_true_manifest(tmp_path, trained):
    folder = tmp_path / "checkpoints" / "0000000011"
    trained[0].save_checkpoint(folder)
    assert files_below(folder) == {SHARD, INDEX, "checkpoint.json"}
    manifest = read_checkpoint_manifest(folder)
    assert manifest is not None
    assert set(manifest.files) == {SHARD, INDEX}
    check_files(folder, manifest.files)
    assert list(folder.parent.iterdir()) == [folder]


def test_train_step_of_the_manifest_is_the_one_in_the_weights(tmp_path, trained, monkeypatch):
    saver, train_step = trained
    write = tf.train.Checkpoint.write

    def and_a_trainer_that_goes_on(self, *args):
        write(self, *args)
        train_step.assign_add(1)

    monkeypatch.setattr(tf.train.Checkpoint, "write", and_a_trainer_that_goes_on)
    for name, step in (("a", 11), ("b", 12)):
        saver.save_checkpoint(tmp_path / name)
        manifest = read_checkpoint_manifest(tmp_path / name)
        assert manifest is not None
        assert manifest.train_step == step


def test_train_step_that_was_never_given_is_unknown(tmp_path, saved: Saved):
    saved.saver("q").save_checkpoint(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "checkpoint.json").read_text())["train_step"] == -1


def test_overwritten_checkpoint_is_a_whole_new_one(tmp_path, trained):
    saver, train_step = trained
    saver.save_checkpoint(tmp_path / "latest")
    first = read_checkpoint_manifest(tmp_path / "latest")
    train_step.assign(12)
    saver.save_checkpoint(tmp_path / "latest")
    second = read_checkpoint_manifest(tmp_path / "latest")
    assert first is not None
    assert second is not None
    assert (first.train_step, second.train_step) == (11, 12)
    assert first.digest != second.digest
    check_files(tmp_path / "latest", second.files)
    assert list(tmp_path.iterdir()) == [tmp_path / "latest"]


def test_plain_tf_agents_restores_the_checkpoint_into_the_export(tmp_path, trained):
    saver, train_step = trained
    saver.save(tmp_path / "policy")
    for variable in saver._raw_policy.variables():
        variable.assign(tf.random.stateless_normal(variable.shape, (1, 2)))
    train_step.assign(700)
    saver.save_checkpoint(tmp_path / "checkpoint")

    loaded = tf.saved_model.load(str(tmp_path / "policy"))
    live = [variable.numpy() for variable in saver._raw_policy.variables()]
    assert not all(np.array_equal(a, b) for a, b in zip(values(loaded), live, strict=True))
    prefix = str(tmp_path / "checkpoint" / "variables" / "variables")
    tf.train.Checkpoint(policy=loaded).read(prefix).assert_consumed()
    for restored, original in zip(values(loaded), live, strict=True):
        np.testing.assert_array_equal(restored, original)
    assert int(loaded.get_train_step()) == 700
    assert {name: int(value) for name, value in loaded.get_metadata().items()} == {"episodes": 5, "frames": 6}


def test_graph_of_an_export_and_variables_of_a_checkpoint_make_a_full_model(tmp_path):
    train_step = tf.Variable(11, dtype=tf.int64)
    saver = PolicySaver(policies.q(), train_step=train_step)  # metadata is named differently in the two
    saver.save(tmp_path / "policy")
    train_step.assign(700)
    saver.save_checkpoint(tmp_path / "checkpoint")
    shutil.rmtree(tmp_path / "policy" / "variables")
    (tmp_path / "checkpoint" / "variables").rename(tmp_path / "policy" / "variables")
    assert int(tf.saved_model.load(str(tmp_path / "policy")).get_train_step()) == 700


def test_policy_without_variables_has_no_checkpoint_and_leaves_nothing_behind(tmp_path, saved: Saved):
    with pytest.raises(ValueError, match="variables"):
        saved.saver("random").save_checkpoint(tmp_path / "checkpoints" / "a")
    assert list((tmp_path / "checkpoints").iterdir()) == []


# The arguments are those of TF-Agents


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"policy": "no policy"}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"metadata": {"a": 1}}, TypeError),
    ],
)
def test_bad_arguments_are_refused_as_tf_agents_does(arguments, error):
    arguments = {"policy": policies.q()} | arguments
    for kind in (policy_saver.PolicySaver, PolicySaver):
        with pytest.raises(error):
            kind(**arguments)


def test_arguments_may_come_in_tf_agents_order(tmp_path):
    train_step = tf.Variable(3, dtype=tf.int64)
    PolicySaver(policies.q(), 2, True, None, train_step).save_checkpoint(tmp_path / "a")
    manifest = read_checkpoint_manifest(tmp_path / "a")
    assert manifest is not None
    assert manifest.train_step == 3


def test_a_checkpoint_never_replaces_a_folder_that_holds_something_else(tmp_path, trained):
    saver, _ = trained
    saver.save(tmp_path / "policy")
    saver.save_checkpoint(tmp_path / "policy" / "checkpoints" / "1")
    for folder in (tmp_path / "policy", tmp_path / "policy" / "checkpoints"):
        before = files_below(folder)
        with pytest.raises(ValueError, match="expected a folder of the checkpoint's own"):
            saver.save_checkpoint(folder)
        assert files_below(folder) == before
