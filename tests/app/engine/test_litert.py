import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from app.artifacts.bundle import RowSharing
from app.engine import litert
from app.engine.base import InputRefused
from app.engine.litert import MOST_ROWS, LiteRTEngine
from saver.artifact.probe import probe_inputs
from tests.support.compiled import Compiled, CompiledPolicies


def answers(compiled: Compiled, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What LiteRT and TensorFlow say to the same inputs."""
    reference = compiled.opened.engine
    inputs = probe_inputs(compiled.opened.export.spec, reference.initial_state(rows), rows)
    return compiled.engine.run("action", inputs), reference.run("action", inputs)


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["dqn-greedy", "dqn-lstm-greedy", "export-nested", "export-fixed-batch-lstm"])
@pytest.mark.parametrize("rows", [1, 3, 4, 70])
def test_any_number_of_rows_is_answered_as_by_tensorflow(compiled_policies: CompiledPolicies, kind, rows):
    assert_equal(*answers(compiled_policies.compiled(kind), rows))


def test_sizes_may_change_from_call_to_call(compiled_policies: CompiledPolicies):
    for rows in (5, 1, 64, 5):
        assert_equal(*answers(compiled_policies.compiled("export-nested"), rows))


def test_more_rows_than_go_at_once_are_several_calls(compiled_policies: CompiledPolicies, monkeypatch):
    monkeypatch.setattr(litert, "MOST_ROWS", 4)
    assert_equal(*answers(compiled_policies.compiled("export-nested"), 9))


@pytest.mark.parametrize("kind", ["dqn-lstm-greedy", "export-nested", "export-fixed-batch-lstm"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_initial_state_has_as_many_rows_as_asked(compiled_policies: CompiledPolicies, kind, rows):
    compiled = compiled_policies.compiled(kind)
    assert_equal(compiled.engine.initial_state(rows), compiled.opened.engine.initial_state(rows))


def test_policy_without_state_has_an_empty_initial_state(compiled_policies: CompiledPolicies):
    assert compiled_policies.compiled("dqn-greedy").engine.initial_state(3) == {}


def test_info_of_a_whole_batch_is_given_to_each_row(compiled_policies: CompiledPolicies):
    found, expected = answers(compiled_policies.compiled("export-batch-info"), 3)
    assert_equal(found, expected)
    assert found["info/batch"].shape == (3,)


def test_greedy_and_sample_of_a_deterministic_policy_are_its_action(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("dqn-greedy")
    inputs = probe_inputs(compiled.opened.export.spec, {}, 4)
    for function in ("greedy", "sample"):
        assert_equal(compiled.engine.run(function, inputs), compiled.opened.engine.run(function, inputs))


def test_function_that_the_file_lacks_is_no_action(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("export-nested")
    with pytest.raises(KeyError):
        compiled.engine.run("distribution", {"0/reward": np.zeros(1, np.float32)})


def test_answers_stay_what_they_were_when_the_next_call_runs(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("export-nested")
    first, _ = answers(compiled, 4)
    kept = {name: array.copy() for name, array in first.items()}
    inputs = probe_inputs(compiled.opened.export.spec, compiled.engine.initial_state(4), 4)
    compiled.engine.run("action", {name: array * 0 for name, array in inputs.items()})
    assert_equal(first, kept)


def test_initial_states_do_not_share_memory(compiled_policies: CompiledPolicies):
    engine = compiled_policies.compiled("export-nested").engine
    state = engine.initial_state(2)
    state["count"][:] = 7
    assert engine.initial_state(2)["count"].tolist() == [0, 0]


def test_engine_outlives_its_file(compiled_policies: CompiledPolicies, tmp_path):
    compiled = compiled_policies.compiled("dqn-greedy")
    file = tmp_path / "copy.tflite"
    file.write_bytes(compiled.file.read_bytes())
    engine = LiteRTEngine(file, compiled.opened.export.spec)
    file.unlink()
    inputs = probe_inputs(compiled.opened.export.spec, {}, 4)
    assert_equal(engine.run("action", inputs), compiled.opened.engine.run("action", inputs))


def test_file_that_is_no_model_is_an_error(compiled_policies: CompiledPolicies, tmp_path):
    (tmp_path / "no.tflite").write_bytes(b"no model, but long enough to be one")
    with pytest.raises(ValueError, match="odel"):
        LiteRTEngine(tmp_path / "no.tflite", compiled_policies.compiled("dqn-greedy").opened.export.spec)


class LookUp(tf_policy.TFPolicy):
    """Takes from its five weights the one that the observation points to: there are positions it has not."""

    def __init__(self) -> None:
        spec = ts.time_step_spec(tf.TensorSpec([], tf.int32, "observation"))
        super().__init__(spec, tf.TensorSpec([], tf.float32, "action"), automatic_state_reset=False)
        self._weights = tf.Variable([0.0, 1.0, 2.0, 3.0, 4.0])

    def _variables(self) -> list[tf.Variable]:
        return [self._weights]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        return policy_step.PolicyStep(tf.gather(self._weights, time_step.observation), policy_state)

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def test_what_the_policy_refuses_is_refused_and_the_next_call_runs(compiled_policies: CompiledPolicies, tmp_path):
    opened = compiled_policies.of(LookUp)
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    engine = LiteRTEngine(tmp_path / "m.tflite", opened.export.spec)
    inputs = probe_inputs(opened.export.spec, {}, 3)
    good, bad = np.array([0, 4, 2], np.int32), np.array([0, 500, 2], np.int32)
    for runs in (engine, opened.engine):
        with pytest.raises(InputRefused):
            runs.run("action", inputs | {"0/observation": bad})
        assert runs.run("action", inputs | {"0/observation": good})["action"].tolist() == [0, 4, 2]


def test_of_any_number_of_refusals_each_says_the_same_and_little_is_kept(compiled_policies: CompiledPolicies, tmp_path):
    opened = compiled_policies.of(LookUp)
    file = tmp_path / "m.tflite"
    opened.compiler().compile(opened.engine, file)
    engine = LiteRTEngine(file, opened.export.spec)
    file.unlink()
    inputs = probe_inputs(opened.export.spec, {}, 3)
    bad = inputs | {"0/observation": np.array([0, 500, 2], np.int32)}
    said, most = set(), 0
    for _ in range(2000):
        with pytest.raises(InputRefused) as refused:
            engine.run("action", bad)
        said.add(str(refused.value))
        most = max(most, len(str(refused.value.__cause__)))
    assert len(said) == 1
    assert most < 2**16
    assert engine.run("action", inputs | {"0/observation": np.array([0, 4, 2], np.int32)})["action"].tolist() == [
        0,
        4,
        2,
    ]


@pytest.mark.parametrize(
    ("sharing", "rows", "calls"),
    [
        (RowSharing(), MOST_ROWS, [MOST_ROWS]),
        (RowSharing(), MOST_ROWS + 3, [MOST_ROWS, 3]),
        (RowSharing("they depend on each other"), MOST_ROWS + 3, [MOST_ROWS + 3]),
    ],
)
def test_many_rows_are_several_calls_unless_they_depend_on_each_other(
    compiled_policies: CompiledPolicies, monkeypatch, sharing, rows, calls
):
    compiled = compiled_policies.compiled("dqn-greedy")
    engine = LiteRTEngine(compiled.file, compiled.opened.export.spec)
    engine.sharing = sharing
    action, seen = engine._functions["action"], []

    def counted(inputs, rows):
        assert len(inputs["0/observation"]) == rows
        seen.append(rows)
        return action(inputs, rows)

    monkeypatch.setitem(engine._functions, "action", counted)
    assert len(engine.run("action", probe_inputs(compiled.opened.export.spec, {}, rows))["action"]) == rows
    assert seen == calls


def test_no_tensorflow_is_imported():
    program = "import sys, app.engine.litert; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
