"""Policies that draw, in LiteRT: `action` is `sample` with fresh noise, as random as TensorFlow's own."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.builder import compile as compiling
from app.builder.compile import CannotCompile
from app.builder.constant_folding import FoldedConstants
from app.builder.equivalence_inputs import random_inputs
from app.engine import litert
from app.engine.litert import LiteRTEngine
from app.engine.noise import fresh_noise
from saver import PolicySaver
from saver.artifact.probe import probe_inputs, probe_noise
from saver.impure_ops import seed_of
from tests.support import saver_policies as policies
from tests.support.compiled import Compiled, CompiledPolicies, Opened
from tests.zoo.statistics import same_distribution

ERROR_RATE = 1e-6
MANY = 2000
# Categories, normal numbers, exploration, a fixed batch; noise for what the graph of `action` draws; gamma samples.
# With --full, test_engines.py in tests/zoo takes every kind.
SAMPLED = [
    "q",
    pytest.param("ppo", marks=pytest.mark.only_full),
    "dqn-epsilon",
    "export-fixed-batch-sampled",
    "neural-boltzmann-gumbel",
    "family-gamma",
]


def one_row(opened: Opened, rows: int) -> dict[str, np.ndarray]:
    """So many times the same valid inputs."""
    inputs = probe_inputs(opened.export.spec, opened.engine.initial_state(1), 1)
    return {name: np.repeat(array, rows, axis=0) for name, array in inputs.items()}


def agree(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether samples of every output are of one distribution."""
    assert found.keys() == expected.keys()
    return all(same_distribution(found[name], expected[name], ERROR_RATE / len(expected)) for name in expected)


def naive(opened: Opened, file: Any) -> LiteRTEngine:
    """What conversion alone makes of `action`."""
    variables = compiling._variables(opened.engine, ["action"])
    file.write_bytes(
        compiling._convert(
            FoldedConstants({"action": compiling._wrapped("action", opened.engine.functions["action"])}, variables)
        )
    )
    return LiteRTEngine(file, opened.export.spec)


def test_conversion_of_action_itself_freezes_draws_that_have_a_seed(compiled_policies: CompiledPolicies, tmp_path):
    """A seed is in every export of a program that begins with `tf.random.set_seed`, or gives one to the saver."""
    opened = compiled_policies.opened("export-seeded")
    first, second = (naive(opened, tmp_path / f"{i}.tflite") for i in range(2))
    many, few = one_row(opened, 64), one_row(opened, 16)
    in_each_process = [engine.run("action", many)["action"] for engine in (first, second)]
    np.testing.assert_array_equal(*in_each_process)
    at_each_change_of_size = [first.run("action", inputs)["action"] for inputs in (few, many, few, many)]
    np.testing.assert_array_equal(at_each_change_of_size[0], at_each_change_of_size[2])
    with pytest.raises(CannotCompile, match="draws from a seed in the export"):
        opened.compiler()


@pytest.mark.parametrize("kind", SAMPLED)
def test_sampled_answers_are_as_random_as_tensorflows(compiled_policies: CompiledPolicies, kind):
    compiled = compiled_policies.compiled(kind)
    inputs = one_row(compiled.opened, MANY)
    expected = compiled.opened.engine.run("action", inputs)
    across_rows = compiled.engine.run("action", inputs)
    assert agree(across_rows, expected)
    few = {name: array[:4] for name, array in inputs.items()}
    calls = [compiled.engine.run("action", few) for _ in range(MANY // 4)]
    assert agree({name: np.concatenate([call[name] for call in calls]) for name in expected}, expected)
    assert len({call["action"].tobytes() for call in calls}) > 10
    assert len(np.unique(across_rows["action"], axis=0)) > 1


def under_a_seed() -> PolicySaver:
    """As a program that begins with `tf.random.set_seed` has it."""
    tf.random.set_seed(1)
    try:
        saver = PolicySaver(policies.q())
        assert seed_of(saver.signatures["action"].get_concrete_function()) == "global"
        return saver
    finally:
        tf.random.set_seed(None)


def test_a_seed_of_the_program_that_saved_it_neither_keeps_a_policy_on_tensorflow_nor_comes_again(
    compiled_policies: CompiledPolicies, tmp_path
):
    opened = compiled_policies.open("under a seed", under_a_seed)
    opened.compiler().compile(opened.engine, tmp_path / "m.tflite")
    export = opened.export
    inputs = one_row(opened, 500)
    first, second = (
        LiteRTEngine(tmp_path / "m.tflite", export.spec, export.serving.noise).run("action", inputs) for _ in range(2)
    )
    assert not np.array_equal(first["action"], second["action"])


def test_other_copies_and_processes_draw_other_numbers(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("ppo")
    spec, noise = compiled.opened.export.spec, compiled.opened.export.serving.noise
    inputs = one_row(compiled.opened, 500)
    program = (
        "import pickle, sys; from pathlib import Path; from app.engine.litert import LiteRTEngine\n"
        "file, spec, noise, inputs = pickle.load(sys.stdin.buffer)\n"
        "pickle.dump(LiteRTEngine(Path(file), spec, noise).run('action', inputs), sys.stdout.buffer)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    sent = pickle.dumps((str(compiled.file), spec, noise, inputs))
    elsewhere = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
    answers = [
        compiled.engine.run("action", inputs),
        LiteRTEngine(compiled.file, spec, noise).run("action", inputs),
        pickle.loads(elsewhere.stdout),
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not (answers[one]["action"][:, None] == answers[other]["action"]).all(axis=2).any()
        assert agree(answers[one], answers[other])


def test_action_is_sample_of_fresh_noise_without_what_only_that_gives(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("ppo")
    assert "action" not in compiled.engine._functions
    noise = compiled.opened.export.serving.noise
    inputs = one_row(compiled.opened, 5)
    engine = LiteRTEngine(compiled.file, compiled.opened.export.spec, noise)
    engine._generator = np.random.default_rng(3)
    found = engine.run("action", inputs)
    expected = engine.run("sample", inputs | fresh_noise(noise, 5, np.random.default_rng(3)))
    assert found.keys() == compiled.opened.engine.run("action", inputs).keys()
    assert "log_prob" in expected.keys() - found.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("rows", [1, 7, 60, 130])
def test_fixed_batch_draws_for_any_number_of_rows(compiled_policies: CompiledPolicies, rows):
    compiled = compiled_policies.compiled("export-fixed-batch-sampled")
    found = compiled.engine.run("action", one_row(compiled.opened, rows))
    assert {len(array) for array in found.values()} == {rows}


def test_every_piece_of_a_large_call_has_noise_of_its_own(compiled_policies: CompiledPolicies, monkeypatch):
    monkeypatch.setattr(litert, "MOST_ROWS", 4)
    compiled: Compiled = compiled_policies.compiled("ppo")
    found = compiled.engine.run("action", one_row(compiled.opened, 11))["action"]
    assert len(np.unique(found, axis=0)) == 11


def test_log_prob_of_a_squashed_action_is_that_of_the_value_before_tanh(compiled_policies: CompiledPolicies):
    """Also at the bound, where the action itself does not show it any more."""
    compiled = compiled_policies.compiled("sac")
    spec, noise = compiled.opened.export.spec, compiled.opened.export.serving.noise
    inputs = random_inputs(spec, 256, 0.5, np.random.default_rng(0))
    drawn = probe_noise(noise, 256)
    answer = compiled.engine.run("sample", inputs | drawn)
    described = compiled.engine.run("distribution", inputs)
    loc, scale, low, high = (
        described[f"action/{name}"].astype(np.float64) for name in ("loc", "scale_diag", "low", "high")
    )
    normal = drawn["noise/normal"].astype(np.float64)
    before = loc + scale * normal
    density = -0.5 * normal**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    volume = 2 * (np.log(2) - before - np.logaddexp(0, -2 * before)) + np.log((high - low) / 2)
    expected = (density - volume).sum(axis=1)
    assert ((answer["action"] == low) | (answer["action"] == high)).any()
    np.testing.assert_allclose(answer["log_prob"], expected, rtol=1e-4, atol=1e-4)


def test_numbers_for_a_whole_call_are_drawn_anew_for_each_call(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("td3-gaussian-noise")
    inputs = one_row(compiled.opened, 3)
    actions = np.array([compiled.engine.run("action", inputs)["action"] for _ in range(1000)])
    assert (actions == actions[:, :1]).all()
    expected = np.array([compiled.opened.engine.run("action", inputs)["action"] for _ in range(1000)])
    assert same_distribution(actions[:, 0], expected[:, 0], ERROR_RATE)
    assert len(np.unique(actions[:, 0], axis=0)) > 100


def test_a_distribution_that_is_random_is_another_one_in_each_call(compiled_policies: CompiledPolicies):
    compiled = compiled_policies.compiled("linear-thompson")
    inputs = random_inputs(compiled.opened.export.spec, 2000, 1.0, np.random.default_rng(0))
    found = compiled.engine.run("distribution", inputs)
    assert found.keys() == compiled.opened.engine.run("distribution", inputs).keys()
    assert any((array != compiled.engine.run("distribution", inputs)[name]).any() for name, array in found.items())
