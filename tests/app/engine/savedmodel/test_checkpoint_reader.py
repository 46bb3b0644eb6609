"""The values of a checkpoint are read, or it is said why not: for good, or for now where the machine is to blame."""

import gc
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf

from app.engine.savedmodel.checkpoint_reader import StoredValues
from app.errors import SwapRefused, is_passing
from tests.integration.swaps.bad_checkpoints.kinds import promise_a_tebibyte


def test_an_index_that_promises_a_tebibyte_is_refused_for_good(tmp_path: Path) -> None:
    """It is not the machine that has too little memory: tried again, it would be refused again, every second."""
    tf.train.Checkpoint(v=tf.Variable([1.0])).write(str(tmp_path / "variables" / "variables"))
    assert StoredValues(tmp_path).all
    promise_a_tebibyte(tmp_path)
    with pytest.raises(SwapRefused, match="its index cannot be read: ") as caught:
        StoredValues(tmp_path)
    assert not is_passing(caught.value)


def test_a_folder_of_any_name_can_be_read_as_long_as_somebody_reads(tmp_path: Path, monkeypatch) -> None:
    folder, temporary = tmp_path / "step=[1]", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    tf.train.Checkpoint(v=tf.Variable([1.0])).write(str(folder / "variables" / "variables"))
    values = StoredValues(folder)
    assert values.read(values.by_name["v"]) == [1.0]
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(SwapRefused, match=r"v cannot be read: .*variables/variables") as caught:
        StoredValues(folder).read(values.by_name["v"])
    assert str(temporary) not in str(caught.value)
    del values, caught
    gc.collect()
    assert not any(temporary.iterdir())
