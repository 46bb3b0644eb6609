"""What `save` and `save_checkpoint` make of their options, and functions that are saved along with a policy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from saver import PolicySaver
from saver.artifact import check_files, hash_files, read_checkpoint_manifest, read_policy_manifest
from tests.support import saver_policies as policies

# Folders and options


@pytest.mark.parametrize("kind", [str, Path])
def test_folder_is_text_or_path(tmp_path, kind):
    saver = PolicySaver(policies.NestedPolicy())
    saver.save(export_dir=kind(tmp_path / "deep" / "policy"))
    saver.save_checkpoint(export_dir=kind(tmp_path / "deep" / "checkpoint"))
    assert (tmp_path / "deep" / "policy" / "saved_model.pb").is_file()
    assert (tmp_path / "deep" / "checkpoint" / "variables" / "variables.index").is_file()


def test_save_hands_its_options_to_tensorflow(tmp_path):
    saver = PolicySaver(policies.NestedPolicy())
    options = tf.saved_model.SaveOptions(save_debug_info=True, function_aliases={"act": saver.policy.action})
    saver.save(tmp_path / "policy", options)
    model = saved_model_pb2.SavedModel.FromString((tmp_path / "policy" / "saved_model.pb").read_bytes())
    assert set(model.meta_graphs[0].meta_info_def.function_aliases.values()) == {"act"}
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    assert "debug/saved_model_debug_info.pb" in manifest.files
    check_files(tmp_path / "policy", manifest.files)


def test_save_checkpoint_hands_its_options_to_tensorflow(tmp_path):
    saver = PolicySaver(policies.q())
    small_shards = tf.train.experimental.MaxShardSizePolicy(40)
    saver.save_checkpoint(
        tmp_path / "a", options=tf.train.CheckpointOptions(experimental_sharding_callback=small_shards)
    )
    manifest = read_checkpoint_manifest(tmp_path / "a")
    assert manifest is not None
    assert len([name for name in manifest.files if ".data-" in name]) > 1
    check_files(tmp_path / "a", manifest.files)
    assert manifest.files == hash_files(tmp_path / "a", list((tmp_path / "a" / "variables").iterdir()))


@pytest.mark.parametrize(
    ("method", "options"), [("save", tf.saved_model.SaveOptions), ("save_checkpoint", tf.train.CheckpointOptions)]
)
def test_options_that_tensorflow_refuses_leave_nothing_behind(tmp_path, method, options):
    write: Callable[..., None] = getattr(PolicySaver(policies.NestedPolicy()), method)
    with pytest.raises(tf.errors.InvalidArgumentError, match="nowhere"):
        write(tmp_path / "policy", options(experimental_io_device="/job:nowhere"))
    assert list(tmp_path.iterdir()) == []


# Registered functions


def test_registered_function_is_in_the_export_with_the_weights_of_the_policy(tmp_path):
    policy = policies.NestedPolicy()
    saver = PolicySaver(policy)
    saver.register_function("values", lambda x: x["a"] + policy.variables()[0], {"a": tf.TensorSpec((2,), tf.float32)})
    saver.register_function("of_three", tf.square, tf.TensorSpec((), tf.float32), outer_dims=(3,))
    saver.save(tmp_path / "policy")
    model = tf.saved_model.load(str(tmp_path / "policy"))
    np.testing.assert_array_equal(model.values({"a": tf.zeros([5, 2])}), np.full((5, 2), 1.0))
    np.testing.assert_array_equal(model.of_three(tf.constant([1.0, 2.0, 3.0])), [1.0, 4.0, 9.0])
    with pytest.raises(ValueError, match="Could not find matching concrete function"):
        model.of_three(tf.zeros([4]))
    model.model_variables[0].assign(7.0)
    np.testing.assert_array_equal(model.values({"a": tf.zeros([5, 2])}), np.full((5, 2), 7.0))


def test_registered_concrete_function_is_in_the_export_with_its_variables_and_assets(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    words = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table, offset = tf.lookup.StaticHashTable(words, -1), tf.Variable(40, dtype=tf.int64)
    number = tf.function(lambda word: table.lookup(word) + offset)
    number.get_concrete_function(tf.TensorSpec((), tf.string))
    saver = PolicySaver(policies.NestedPolicy())
    saver.register_concrete_function("number", number, assets=table)
    saver.save(tmp_path / "policy")
    (tmp_path / "words.txt").unlink()

    model = tf.saved_model.load(str(tmp_path / "policy"))
    assert [int(model.number(tf.constant(word))) for word in ("a", "b", "c")] == [40, 41, 39]
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    assert "assets/words.txt" in manifest.files


def test_name_that_is_taken_cannot_be_registered():
    saver = PolicySaver(policies.NestedPolicy())
    with pytest.raises(ValueError, match="already has an attribute registered with: action"):
        saver.register_function("action", tf.square, tf.TensorSpec((), tf.float32))
    with pytest.raises(ValueError, match="already has an attribute registered with: distribution"):
        saver.register_concrete_function("distribution", tf.function(tf.square))
