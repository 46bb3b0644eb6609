"""An export of every kind answers as the live policy does, and so it does with a later checkpoint's weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.compare import ask, asked_live, asked_trained, assert_agree, assert_equal, differ
from tests.zoo.exported import Exported, arrays


def test_reloaded_export_answers_as_the_live_policy(exported: Exported) -> None:
    expected = asked_live(exported)
    assert_agree(exported, expected, ask(exported, exported.loaded.signatures["action"]))
    if exported.kind.stochastic:
        assert any(len(np.unique(samples, axis=0)) > 1 for samples in expected.values())


def test_reloaded_export_starts_in_the_live_policys_state(exported: Exported) -> None:
    rows = exported.batch_size or 5
    arguments = {} if exported.batch_size else {"batch_size": tf.constant(rows)}
    found = exported.loaded.signatures["get_initial_state"](**arguments)
    assert_equal(exported.initial_state(rows), arrays(found))


def test_checkpoint_makes_the_export_answer_as_the_trained_policy(exported: Exported, tmp_path: Path) -> None:
    if not exported.policy.variables():
        with pytest.raises(ValueError, match="model_variables"):
            exported.saver.save_checkpoint(tmp_path / "checkpoint")
        return
    loaded = exported.load()
    with exported.trained():
        exported.saver.save_checkpoint(tmp_path / "checkpoint")
    restore(loaded, tmp_path / "checkpoint")
    after = ask(exported, loaded.signatures["action"])
    assert_agree(exported, asked_trained(exported), after)
    assert differ(exported, asked_live(exported), after)


def restore(loaded: Any, folder: Path) -> None:
    tf.train.Checkpoint(policy=loaded).read(str(folder / "variables" / "variables")).assert_consumed()
