"""Constants of a graph: what no checkpoint changes, by their values and not by the names of their nodes."""

from pathlib import Path

import pytest
import tensorflow as tf

from app.builder.embedded_constants import embedded_constants
from app.errors import SwapRefused


def saved(folder: Path, factor: float, name: str = "x", weight: float = 1.0, branch: float = 3.0) -> Path:
    """A model with `factor` in its graph, `branch` in a function that it calls, and `weight` in a variable."""
    module = tf.Module()
    module.weight = tf.Variable(weight)

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(x > 0.0, lambda: x * branch, lambda: x)

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def call(x: tf.Tensor) -> tf.Tensor:
        return inner(x) * tf.constant(factor, name=name) * module.weight

    module.call = call
    tf.saved_model.save(module, str(folder))
    return folder


def test_weights_and_names_of_nodes_make_no_difference(tmp_path: Path) -> None:
    first = embedded_constants(saved(tmp_path / "a", 0.5))
    assert embedded_constants(saved(tmp_path / "b", 0.5, name="another", weight=2.0)) == first
    assert first


@pytest.mark.parametrize("changed", [{"factor": 0.25}, {"factor": 0.5, "branch": 4.0}])
def test_a_constant_that_differs_is_seen_in_branches_too(tmp_path: Path, changed: dict[str, float]) -> None:
    assert embedded_constants(saved(tmp_path / "a", 0.5)) != embedded_constants(saved(tmp_path / "b", **changed))


def test_how_often_one_stands_there_counts(tmp_path: Path) -> None:
    found = embedded_constants(saved(tmp_path / "a", 3.0, branch=3.0))
    assert found - embedded_constants(saved(tmp_path / "b", 5.0, branch=3.0))


def test_a_graph_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(SwapRefused, match=r"saved_model.pb cannot be read"):
        embedded_constants(tmp_path)
