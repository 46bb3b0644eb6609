"""LiteRT by its C interface: the same answers to the last bit, and other threads go on meanwhile."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.builder import compile as compiling
from app.builder.constant_folding import FoldedConstants
from app.engine import litert
from app.engine.base import InputRefused
from app.engine.large_model import LargeModel, is_known
from app.engine.litert import LiteRTEngine
from saver.artifact.probe import probe_inputs, probe_noise
from tests.app.engine.test_litert import LookUp
from tests.support.compiled import Compiled, CompiledPolicies

# Floats; states; nests and integers; a fixed batch; bytes; noise by `sample`, and for a whole call.
KINDS = [
    "dqn-greedy",
    pytest.param("dqn-lstm-greedy", marks=pytest.mark.only_full),
    "export-nested",
    "export-fixed-batch-lstm",
    pytest.param("observation-image", marks=pytest.mark.only_full),
    "ppo",
    "td3-gaussian-noise",
]


def large(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> LiteRTEngine:
    """An engine as of a large file."""
    monkeypatch.setattr(litert, "LARGE_BYTES", 0)
    engine = LiteRTEngine(compiled.file, compiled.opened.export.spec, compiled.opened.export.serving.noise)
    assert isinstance(engine._model, LargeModel)
    return engine


def test_the_interface_of_the_library_that_is_installed_is_known() -> None:
    assert is_known()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_interpreter_to_the_last_bit(
    compiled_policies: CompiledPolicies, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compiled_policies.compiled(kind)
    engine, spec, noise = (
        large(compiled, monkeypatch),
        compiled.opened.export.spec,
        compiled.opened.export.serving.noise,
    )
    for rows in (1, 3, 70, 3):
        state = engine.initial_state(rows)
        expected = compiled.engine.initial_state(rows)
        assert state.keys() == expected.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(array, expected[name])
        inputs = probe_inputs(spec, state, rows)
        for function in compiled.engine._functions.keys() - {"get_initial_state"}:
            if function == "sample":
                given = inputs | probe_noise(noise, rows)
            else:
                given = inputs
                for each in (engine, compiled.engine):
                    each._generator = np.random.default_rng(rows)
            found, wanted = engine.run(function, given), compiled.engine.run(function, given)
            assert found.keys() == wanted.keys()
            for name, array in found.items():
                assert array.dtype == wanted[name].dtype
                np.testing.assert_array_equal(array, wanted[name], err_msg=f"{function} {name}")


def test_what_the_policy_refuses_is_refused_and_the_next_call_is_answered(
    compiled_policies: CompiledPolicies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = compiled_policies.of(LookUp)
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    monkeypatch.setattr(litert, "LARGE_BYTES", 0)
    engine = LiteRTEngine(tmp_path / "m.tflite", opened.export.spec)
    inputs = probe_inputs(opened.export.spec, {}, 1)
    with pytest.raises(InputRefused):
        engine.run("action", inputs | {"0/observation": np.array([99], np.int32)})
    assert engine.run("action", inputs | {"0/observation": np.array([3], np.int32)})["action"] == [3.0]


def test_more_than_there_is_room_for_is_refused(
    compiled_policies: CompiledPolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, each of them longer: nothing is written beyond the room of an input."""
    compiled = compiled_policies.compiled("dqn-greedy")
    engine = large(compiled, monkeypatch)
    inputs = probe_inputs(compiled.opened.export.spec, {}, 2)
    answer = engine.run("action", inputs)
    (name,) = [name for name in inputs if name.endswith("observation")]
    longer = inputs | {name: np.concatenate([inputs[name]] * 1000, axis=-1)}
    with pytest.raises(InputRefused, match="expected"):
        engine.run("action", longer)
    for leaf, array in engine.run("action", inputs).items():
        np.testing.assert_array_equal(array, answer[leaf])


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.tflite").write_bytes(b"no model, but long enough to be one")
    with pytest.raises(ValueError, match="no model that LiteRT can run"):
        LargeModel(tmp_path / "no.tflite")


def test_an_output_that_has_another_name_in_the_library_is_an_error(compiled_policies: CompiledPolicies) -> None:
    with pytest.raises(ValueError, match="is the library's name of an output, and none of the file's"):
        LargeModel(compiled_policies.compiled("scripted").file)


def test_an_output_that_the_library_leaves_where_it_is_looks_wrong(
    compiled_policies: CompiledPolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the comparison with TensorFlow sees it, and such a policy is not served by it."""
    compiled = compiled_policies.compiled("fixed")
    engine = large(compiled, monkeypatch)
    inputs = probe_inputs(compiled.opened.export.spec, {}, 3)
    assert compiled.engine.run("action", inputs)["action"].tolist() == [2, 2, 2]
    assert engine.run("action", inputs)["action"].tobytes() == bytes([0xA5] * 24)


@pytest.fixture(scope="module")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 16 MB of weights."""
    weights = [tf.Variable(tf.random.normal([1024, 1024], stddev=0.02, seed=number)) for number in range(4)]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 1024], tf.float32, "x")])
    def action(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for each in weights:
            x = tf.nn.relu(tf.matmul(x, each))
        return {"y": x}

    file = tmp_path_factory.mktemp("large") / "m.tflite"
    file.write_bytes(compiling._convert(FoldedConstants({"action": action}, weights)))
    return file


def test_other_threads_go_on_while_weights_are_packed(matrices: Path) -> None:
    moments: list[float] = []
    stopped = threading.Event()

    def tick() -> None:
        while not stopped.is_set():
            moments.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        assert any(_ticked_within(matrices, moments) for _ in range(20))
    finally:
        stopped.set()
        thread.join()


def _ticked_within(file: Path, moments: list[float]) -> bool:
    """Whether there were moments well inside the loading, of which packing is nearly all."""
    moments.clear()
    begin = time.perf_counter()
    LargeModel(file)
    end = time.perf_counter()
    third = (end - begin) / 3
    return any(begin + third < moment < end - third for moment in list(moments))
