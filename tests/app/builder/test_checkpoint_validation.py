import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver

from app.artifacts import checkpoint_identity as folders
from app.artifacts.checkpoint_identity import INDEX, Identity
from app.builder.checkpoint_validation import check, train_step_in, variables_of
from app.engine.savedmodel.checkpoint_reader import Stored, prefix
from app.errors import Incomplete, SwapRefused
from saver import PolicySaver
from saver.artifact import CHECKPOINT_FILE, read_checkpoint_manifest, write_checkpoint_manifest
from tests.support import saver_policies as policies

SHARD = "variables.data-00000-of-00001"
REST_S = 0.25
Expected = list[Stored]


class Trained:
    """An export, a checkpoint of ours and a plain one of the same policy; tests work on copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = policies.q()
        options = {
            "train_step": tf.Variable(700, dtype=tf.int64),
            "metadata": {"map": tf.Variable("desert"), "frames": tf.Variable(6, dtype=tf.int64)},
        }
        saver = PolicySaver(self.policy, **options)
        saver.save(folder / "policy", verify=False)
        saver.save_checkpoint(folder / "ours")
        policy_saver.PolicySaver(self.policy, **options).save_checkpoint(str(folder / "plain"))
        settle(folder / "plain")
        self.variables = variables_of(folder / "policy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def ours(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder / "ours", tmp_path / "ours"))


@pytest.fixture
def plain(trained: Trained, tmp_path: Path) -> Path:
    """No checkpoint.json; at rest since a while."""
    return Path(shutil.copytree(trained.folder / "plain", tmp_path / "plain"))


def settle(folder: Path, ago_s: float = 60.0) -> Path:
    """Makes everything in the folder as old as that."""
    then = time.time() - ago_s
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
    return folder


def identify(folder: Path, rest_s: float) -> Identity:
    return folders.identify(folder, rest_s, lambda checkpoint, _: train_step_in(checkpoint))


def refusal(folder: Path, expected: Expected) -> str:
    with pytest.raises(SwapRefused) as caught:
        check(folder, expected)
    return str(caught.value)


# What is it?


def test_checkpoint_of_ours_is_what_its_manifest_says_however_young(ours):
    manifest = read_checkpoint_manifest(ours)
    assert manifest is not None
    identity = identify(ours, 3600)
    assert (identity.digest, identity.train_step) == (manifest.digest, 700)


def test_plain_checkpoint_is_identified_by_its_files(plain, ours):
    identity = identify(plain, REST_S)
    assert identity.train_step == 700
    assert identity.digest == write_checkpoint_manifest(plain, 700).digest
    assert identity == identify(plain, REST_S)


def test_checkpoint_without_train_step_has_an_unknown_one(tmp_path):
    write(tmp_path / "a", model_variables=[tf.Variable(1.0)])
    assert identify(settle(tmp_path / "a"), REST_S).train_step == -1


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "variables" / name).unlink()


def second_shard_missing(folder: Path) -> None:
    (folder / "variables" / SHARD).rename(folder / "variables" / "variables.data-00000-of-00002")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: shutil.rmtree(folder / "variables"), "variables/variables.index is missing"),
        (lambda folder: [p.unlink() for p in (folder / "variables").iterdir()], "variables/variables.index is missing"),
        (without(INDEX), "variables/variables.index is missing"),
        (without(SHARD), "0 of its data files are there"),
        (second_shard_missing, "1 of 2 data files are there"),
    ],
    ids=["no variables", "empty variables", "index missing", "shard missing", "one of two shards missing"],
)
def test_plain_checkpoint_that_lacks_a_file_is_incomplete(plain, damage, says):
    damage(plain)
    for age_s, settled in ((0.0, False), (60.0, True)):
        settle(plain, age_s)
        with pytest.raises(Incomplete) as caught:
            identify(plain, REST_S)
        assert (str(caught.value), caught.value.settled) == (says, settled)


@pytest.mark.parametrize("changed", [f"variables/{INDEX}", f"variables/{SHARD}", "variables/other", "variables", "."])
def test_plain_checkpoint_that_changed_just_now_is_incomplete(plain, changed):
    path = plain / changed
    path.touch()
    settle(plain)
    identify(plain, REST_S)
    os.utime(path)
    with pytest.raises(Incomplete) as caught:
        identify(plain, REST_S)
    assert (str(caught.value), caught.value.settled) == ("its files changed just now", False)
    identify(plain, 0.0)


def test_folder_that_is_gone_is_incomplete(tmp_path):
    with pytest.raises(Incomplete):
        identify(tmp_path / "gone", REST_S)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "checkpoint.json is not JSON"),
        ("{}", "checkpoint.json has format None, expected 1"),
        ('{"format": 1, "train_step": 7, "digest": "x", "files": {}}', "at odds with itself"),
    ],
)
def test_manifest_that_cannot_be_used_is_refused_and_not_passed_over(ours, text, says):
    (ours / CHECKPOINT_FILE).write_text(text)
    with pytest.raises(SwapRefused, match=says):
        identify(ours, REST_S)


@pytest.mark.parametrize("body", [b"", b"no index", b"\0" * 500])
def test_plain_checkpoint_with_an_unreadable_index_is_refused(plain, body):
    (plain / "variables" / INDEX).write_bytes(body)
    with pytest.raises(SwapRefused, match="its index cannot be read"):
        identify(settle(plain), REST_S)


# May it serve?


def test_good_checkpoints_pass(trained, ours, plain):
    check(ours, trained.variables)
    check(plain, trained.variables)


def test_exports_variables_are_known_under_the_names_of_its_checkpoints(trained):
    variables = {stored.name: (stored.shape, stored.dtype) for stored in trained.variables}
    assert variables["train_step"] == ((), "int64")
    assert variables["metadata/map"] == ((), "string")
    kernels = {shape for name, (shape, _) in variables.items() if name.startswith("model_variables/")}
    assert kernels == {(4, 3), (3,), (3, 2), (2,)}


def truncated(name: str, bytes_left: int) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = folder / "variables" / name
        path.write_bytes(path.read_bytes()[:bytes_left])

    return damage


def flipped(name: str, place: float) -> Callable[[Path], object]:
    """One bit of the file, at this part of its length."""

    def damage(folder: Path) -> None:
        path = folder / "variables" / name
        body = bytearray(path.read_bytes())
        body[int(place * (len(body) - 1))] ^= 1
        path.write_bytes(body)

    return damage


DAMAGES = {
    "index missing": without(INDEX),
    "shard missing": without(SHARD),
    "index truncated": truncated(INDEX, 100),
    "index empty": truncated(INDEX, 0),
    "shard truncated": truncated(SHARD, 40),
    "shard empty": truncated(SHARD, 0),
    "first byte of shard flipped": flipped(SHARD, 0.0),
    "middle byte of shard flipped": flipped(SHARD, 0.5),
    "last byte of shard flipped": flipped(SHARD, 1.0),
    "middle byte of index flipped": flipped(INDEX, 0.5),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_without_a_manifest_too(trained, plain, damage):
    damage(plain)
    assert "cannot be read" in refusal(plain, trained.variables)


def test_every_byte_of_the_weights_is_covered_by_a_checksum(trained, plain):
    shard = plain / "variables" / SHARD
    body = shard.read_bytes()
    for place in range(0, len(body), max(1, len(body) // 60)):
        damaged = bytearray(body)
        damaged[place] ^= 128
        shard.write_bytes(damaged)
        assert "cannot be read" in refusal(plain, trained.variables), place


def write(folder: Path, **tree: object) -> Path:
    """A checkpoint of just these variables, with a true manifest."""
    tf.train.Checkpoint(**tree).write(str(folder / "variables" / "variables"))
    return folder


def tree_of(trained: Trained) -> dict[str, object]:
    """What `write` needs for a checkpoint that fits the export."""
    copies = [tf.Variable(variable) for variable in trained.policy.variables()]
    metadata = {"map": tf.Variable("desert"), "frames": tf.Variable(6, dtype=tf.int64)}
    return {
        "model_variables": copies,
        "train_step": tf.Variable(700, dtype=tf.int64),
        "metadata": metadata,
    }


def test_checkpoint_written_by_hand_passes(trained, tmp_path):
    check(write(tmp_path / "a", **tree_of(trained)), trained.variables)


def _missing(tree):
    tree["model_variables"] = tree["model_variables"][:-1]


def _extra(tree):
    tree["model_variables"].append(tf.Variable(1.0))


def _metadata_missing(tree):
    del tree["metadata"]["frames"]


def _train_step_missing(tree):
    del tree["train_step"]


def _train_step_narrow(tree):
    tree["train_step"] = tf.Variable(700, dtype=tf.int32)


def _half_precision(tree):
    tree["model_variables"][0] = tf.cast(tree["model_variables"][0], tf.float16)
    tree["model_variables"][0] = tf.Variable(tree["model_variables"][0])


def _other_shape(tree):
    tree["model_variables"][1] = tf.Variable(tf.zeros([5]))


def _transposed(tree):
    tree["model_variables"][0] = tf.Variable(tf.transpose(tree["model_variables"][0]))


def _nan(tree):
    tree["model_variables"][0][1, 2].assign(np.nan)


def _infinite(tree):
    tree["model_variables"][3].assign([np.inf, -np.inf])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_missing, r"variable model_variables/3 is missing \(1 of 7 are\)"),
        (_metadata_missing, r"variable metadata/frames is missing \(1 of 7 are\)"),
        (_train_step_missing, r"variable train_step is missing \(1 of 7 are\)"),
        (_extra, r"variable model_variables/4 is unknown to the policy \(1 such\)"),
        (_train_step_narrow, r"variable train_step is int32 \[\], the policy has int64 \[\]"),
        (_half_precision, r"variable model_variables/0 is float16 \[4, 3\], the policy has float32 \[4, 3\]"),
        (_other_shape, r"variable model_variables/1 is float32 \[5\], the policy has float32 \[3\]"),
        (_transposed, r"variable model_variables/0 is float32 \[3, 4\], the policy has float32 \[4, 3\]"),
        (_nan, r"variable model_variables/0 holds 1 values of 12 that are NaN or infinite"),
        (_infinite, r"variable model_variables/3 holds 2 values of 2 that are NaN or infinite"),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else "",
)
def test_checkpoint_that_does_not_fit_is_refused_with_the_reason(trained, tmp_path, change, reason):
    tree = tree_of(trained)
    change(tree)
    folder = write(tmp_path / "a", **tree)
    for manifest in (False, True):
        if manifest:
            write_checkpoint_manifest(folder, 700)
        with pytest.raises(SwapRefused, match=f"^{reason}$"):
            check(folder, trained.variables)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: policies.q(units=5), "is float32"),
        (policies.q_lstm, "variable model_variables/"),
        (policies.NestedPolicy, "is missing"),
    ],
    ids=["wider", "recurrent", "another policy"],
)
def test_checkpoint_of_another_architecture_is_refused(tmp_path, trained, make, says):
    options = {
        "train_step": tf.Variable(700, dtype=tf.int64),
        "metadata": {"map": tf.Variable("desert"), "frames": tf.Variable(6, dtype=tf.int64)},
    }
    PolicySaver(make(), **options).save_checkpoint(tmp_path / "a")
    assert says in refusal(tmp_path / "a", trained.variables)


def weight_of(dtype: str) -> Stored:
    return Stored("weight", ("weight",), (2,), dtype)


def test_variables_of_short_floats_are_checked_for_nan_too(tmp_path):
    for dtype in (tf.bfloat16, tf.float16):
        folder = write(tmp_path / dtype.name, weight=tf.Variable(tf.constant([1.0, np.nan], dtype)))
        reason = refusal(folder, [weight_of(dtype.name)])
        assert reason == "variable weight holds 1 values of 2 that are NaN or infinite"


def test_save_counter_of_tf_train_checkpoint_does_not_matter(tmp_path):
    weight = tf.Variable([1.0, 2.0])
    tf.train.Checkpoint(weight=weight).save(str(tmp_path / "a" / "variables" / "variables"))
    for path in (tmp_path / "a" / "variables").glob("variables-1.*"):
        path.rename(path.with_name(path.name.replace("variables-1", "variables")))
    check(tmp_path / "a", [weight_of("float32")])


def test_checking_changes_no_file(trained, ours):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in ours.rglob("*") if path.is_file()}
    check(ours, trained.variables)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_prefix_is_what_tensorflow_reads(ours):
    assert int(tf.train.load_checkpoint(prefix(ours)).get_tensor("train_step/.ATTRIBUTES/VARIABLE_VALUE")) == 700
    assert json.loads((ours / CHECKPOINT_FILE).read_text())["train_step"] == 700
