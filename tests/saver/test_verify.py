import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saver import PolicySaver
from saver import policy_saver as policy_saver_module
from saver.__main__ import main
from saver.artifact import FUNCTIONS, SERVING_FOLDER, digest_of, hash_files, read_policy_manifest, write_policy_manifest
from saver.verify import VerificationError, same, verify_folder
from tests.support import saver_policies as policies
from tests.support.saver_policies import SAVERS
from tests.support.server import ROOT


def results(folder: Path) -> dict[str, str]:
    return {finding.what: finding.result for finding in verify_folder(folder)}


def copy(saved, name: str, folder: Path) -> Path:
    shutil.copytree(saved.folder(name), folder)
    return folder


def rewrite_manifest(folder: Path) -> None:
    """Makes the digests in policy.json those of the files that are there."""
    manifest = read_policy_manifest(folder)
    files = hash_files(folder, [p for p in folder.rglob("*") if p.is_file() and p.name != "policy.json"])
    assert digest_of(files) != digest_of(manifest.files)
    manifest.files.clear()
    manifest.files.update(files)
    write_policy_manifest(folder, manifest)


# When it is saved


def test_an_export_that_answers_otherwise_is_not_published(tmp_path, monkeypatch):
    saver = PolicySaver(policies.NestedPolicy())
    written = policy_saver_module.save_serving

    def wrongly(saved_policy, signatures, folder):
        right = signatures["action"]

        @tf.function(input_signature=right.input_signature)
        def wrong(*tensors):
            answer = right(*tensors)
            return answer | {"action/move": answer["action/move"] + 1e-4}

        written(saved_policy, signatures | {"action": wrong}, folder)

    monkeypatch.setattr(policy_saver_module, "save_serving", wrongly)
    saver.save(tmp_path / "first", verify=False)
    with pytest.raises(VerificationError, match="serving/action action/move is"):
        saver.save(tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_policy_that_is_trained_meanwhile_is_saved_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    policy = policies.NestedPolicy()
    saver = PolicySaver(policy)
    written = policy_saver_module.save_serving

    def and_train(*arguments):
        written(*arguments)
        policy._weight.assign_add(0.5)

    monkeypatch.setattr(policy_saver_module, "save_serving", and_train)
    with caplog.at_level(logging.WARNING, "policy_saver"):
        saver.save(tmp_path / "p")
    assert "not verified" in caplog.text
    assert read_policy_manifest(tmp_path / "p") is not None


def test_weights_that_are_not_finite_are_saved_as_they_are(tmp_path):
    """A diverged policy is the trainer's affair; NaN equals NaN."""
    policy = policies.q()
    for variable in policy.variables():
        variable.assign(variable * np.nan)
    PolicySaver(policy).save(tmp_path / "p")


# Later


@pytest.mark.parametrize("name", SAVERS)
def test_every_kind_of_export_is_found_well(saved, name):
    assert "failed" not in results(saved.folder(name)).values()


def test_each_function_and_its_lack_are_listed(saved):
    assert results(saved.folder("q")) == dict.fromkeys(
        ["files", "weights", "action", "get_initial_state", *FUNCTIONS, "log_prob of samples"],
        "ok",
    )
    lacking = results(saved.folder("random"))
    assert lacking["action"] == "ok"
    assert lacking["distribution"] == "skipped"


def test_a_changed_file_is_found(saved, tmp_path):
    folder = copy(saved, "q", tmp_path / "q")
    with (folder / SERVING_FOLDER / "saved_model.pb").open("ab") as file:
        file.write(b" ")
    assert results(folder) == {"files": "failed"}


def test_two_halves_that_do_not_belong_together_are_found(saved, tmp_path):
    folder = copy(saved, "nested", tmp_path / "nested")
    other = policies.NestedPolicy()
    other._weight.assign(0.5)
    PolicySaver(other).save(tmp_path / "other")
    shutil.rmtree(folder / SERVING_FOLDER)
    shutil.copytree(tmp_path / "other" / SERVING_FOLDER, folder / SERVING_FOLDER)
    rewrite_manifest(folder)
    assert results(folder)["weights"] == results(folder)["action"] == "failed"


def test_a_graph_that_cannot_be_loaded_is_found(saved, tmp_path):
    folder = copy(saved, "q", tmp_path / "q")
    (folder / SERVING_FOLDER / "saved_model.pb").write_bytes(b"nothing")
    rewrite_manifest(folder)
    assert results(folder) == {"files": "ok", "answers": "failed"}


def test_checkpoints_are_restored_one_by_one(saved, tmp_path):
    folder = copy(saved, "q", tmp_path / "q")
    saver = saved.saver("q")
    for name in ("1", "2", "3", "4"):
        saver.save_checkpoint(folder / "checkpoints" / name)
    with (folder / "checkpoints" / "2" / "variables" / "variables.index").open("ab") as file:
        file.write(b" ")
    (folder / "checkpoints" / "3" / "checkpoint.json").unlink()
    PolicySaver(policies.q(units=4)).save_checkpoint(folder / "checkpoints" / "4")
    found = results(folder)
    assert [found[f"checkpoints/{name}"] for name in "1234"] == ["ok", "failed", "skipped", "failed"]


def test_other_folders_are_no_exports(tmp_path):
    assert results(tmp_path / "missing") == {"files": "failed"}
    tf.saved_model.save(tf.Module(), str(tmp_path / "module"))
    assert results(tmp_path / "module") == {"policy.json": "skipped"}


def test_floats_may_differ_a_little_and_nothing_else():
    one = np.array([1.0, np.nan, np.inf, 0.0], np.float32)
    assert same(one, one + np.float32(5e-6))
    assert not same(one, one + np.float32(1e-4))
    assert not same(one, one.astype(np.float64))
    assert not same(one, one[:3])
    assert same(np.array([1, 2]), np.array([1, 2]))
    assert not same(np.array([1, 2]), np.array([1, 3]))
    assert same(np.array([b"a"], object), np.array([b"a"], object))


# The command


def test_the_command_shows_a_table_and_ends_with_0(saved, capsys):
    assert main(["verify", str(saved.folder("q"))]) == 0
    shown = capsys.readouterr().out
    assert "log_prob of samples" in shown
    assert "all well: 9 looked at" in shown


def test_the_command_ends_with_1_where_something_failed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "saver", "verify", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "saved_model.pb is missing" in done.stdout
    assert "1 of 1 failed" in done.stdout
    assert done.stderr == ""


def test_a_manifest_without_serving_is_an_export_too(saved, tmp_path):
    """As in graph mode."""
    folder = copy(saved, "q", tmp_path / "q")
    shutil.rmtree(folder / SERVING_FOLDER)
    manifest = json.loads((folder / "policy.json").read_text())
    manifest["serving"] = None
    manifest["files"] = {name: h for name, h in manifest["files"].items() if not name.startswith(SERVING_FOLDER)}
    (folder / "policy.json").write_text(json.dumps(manifest))
    assert results(folder) == {"files": "ok", "action": "ok", "get_initial_state": "ok"}
