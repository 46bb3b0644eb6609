import contextlib
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.engine.savedmodel.tensor_files import ALIGNED, Room, TensorFiles

DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint32")


def saved(folder: Path, values: dict[str, np.ndarray]) -> str:
    """A checkpoint of these values, by TensorFlow; returns its prefix."""
    names = sorted(values)
    prefix = str(folder / "variables")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=[values[name] for name in names]
    )
    return prefix


def read(files: TensorFiles, key: str, like: np.ndarray) -> np.ndarray:
    found = np.empty_like(like)
    assert files.holds(key, found.nbytes)
    files.read(key, found)
    return found


def test_every_value_is_what_was_saved(tmp_path):
    generator = np.random.default_rng(0)
    # Long names have much in common, and so many that the index has several blocks.
    values = {
        f"{'layer' * 60}/{number}/{dtype}": generator.integers(0, 100, (number % 7, 3)).astype(dtype)
        for number in range(150)
        for dtype in DTYPES
    }
    values["scalar"] = np.array(2.5)
    prefix = saved(tmp_path, values)
    assert os.path.getsize(f"{prefix}.index") < 2**20
    files = TensorFiles(prefix)
    for key, value in values.items():
        np.testing.assert_array_equal(read(files, key, value), value, key)


def test_values_in_several_files_are_found(tmp_path):
    values = {"one": np.arange(5.0), "other": np.arange(3, 8)}
    prefixes = []
    for name, value in values.items():
        (tmp_path / name).mkdir()
        prefixes.append(saved(tmp_path / name, {name: value}))
    merged = str(tmp_path / "merged")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=merged)
    assert Path(f"{merged}.data-00001-of-00002").exists()
    for name, value in values.items():
        np.testing.assert_array_equal(read(TensorFiles(merged), name, value), value)


def test_a_value_in_slices_is_left_to_tensorflow(tmp_path):
    prefix = str(tmp_path / "sliced")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["halves"], shape_and_slices=["4 3 0,2:-"], tensors=[tf.ones((2, 3))])
    assert not TensorFiles(prefix).holds("halves", 48)


def test_a_value_of_another_size_is_not_there(tmp_path):
    files = TensorFiles(saved(tmp_path, {"value": np.arange(4.0)}))
    assert [files.holds("value", size) for size in (0, 31, 32, 33, 1 << 60)] == [False, False, True, False, False]
    assert not files.holds("another", 32)


def test_a_file_that_ends_too_early_is_noticed(tmp_path):
    prefix = saved(tmp_path, {"value": np.arange(400.0)})
    files = TensorFiles(prefix)
    os.truncate(f"{prefix}.data-00000-of-00001", 1000)
    assert not files.holds("value", 3200)
    with pytest.raises(ValueError, match="value is not all there any more"):
        files.read("value", np.zeros(400))


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(48)])
def test_what_is_no_index_is_refused(tmp_path, content):
    (tmp_path / "variables.index").write_bytes(content)
    with pytest.raises(ValueError, match="it is no table"):
        TensorFiles(str(tmp_path / "variables"))


def test_no_damage_to_an_index_does_more_than_be_refused(tmp_path):
    values = {"value": np.arange(400.0), "value/other": np.arange(3)}
    prefix = saved(tmp_path, values)
    index = Path(f"{prefix}.index")
    whole = index.read_bytes()
    generator = np.random.default_rng(1)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= int(generator.integers(1, 256))
        index.write_bytes(damaged)
        with contextlib.suppress(ValueError, OSError):
            files = TensorFiles(prefix)
            if files.holds("value", values["value"].nbytes):
                files.read("value", np.empty_like(values["value"]))


# Room for a value


def test_a_room_is_used_again_once_nothing_uses_it():
    room = Room()
    first = room.array((3, 5), np.dtype(np.float32))
    place = first.ctypes.data
    assert (first.shape, first.dtype, place % ALIGNED) == ((3, 5), np.float32, 0)
    del first
    assert room.array((3, 5), np.dtype(np.float32)).ctypes.data == place


def test_what_is_in_use_is_not_written_over():
    room = Room()
    first = room.array((4,), np.dtype(np.int64))
    first[:] = 7
    tensor = tf.experimental.dlpack.from_dlpack(first.__dlpack__())
    del first
    gc.collect()
    room.array((4,), np.dtype(np.int64))[:] = 9
    assert tensor.numpy().tolist() == [7] * 4


def test_a_room_grows_and_shrinks():
    room = Room()
    assert room.array((2,), np.dtype(np.float64)).nbytes == 16
    assert room.array((1000,), np.dtype(np.float64)).nbytes == 8000
    assert room.array((0,), np.dtype(np.float64)).nbytes == 0
