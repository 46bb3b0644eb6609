"""`serving/` of every kind answers as the live policy, also with a checkpoint's weights, and by TensorFlow alone."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import greedy_policy

from saver.artifact import LOG_PROB, NOISE_NORMAL, NOISE_UNIFORM, SERVING_FOLDER, PolicyManifest, read_policy_manifest
from saver.distributions import flatten
from saver.serving import without_exploration
from tests.support.environments import packages_of
from tests.zoo.compare import ask, asked_live, asked_trained, assert_agree, assert_equal
from tests.zoo.exported import Exported, Exports, Flat, arrays
from tests.zoo.test_reload import restore

ROWS = 16


class Serving:
    """The functions of an export's `serving/`, by flattened names."""

    def __init__(self, exported: Exported) -> None:
        manifest = read_policy_manifest(exported.folder)
        assert manifest is not None
        assert manifest.serving is not None
        self.manifest: PolicyManifest = manifest
        self.info = manifest.serving
        self.model = tf.saved_model.load(str(exported.folder / SERVING_FOLDER))
        self.kind = exported.kind

    def __contains__(self, function: str) -> bool:
        return function in self.info.signatures

    def call(self, function: str, **flat: Any) -> dict[str, tf.Tensor]:
        signature = self.model.signatures[function]
        specs = signature.structured_input_signature[1].values()
        return signature(**{spec.name: tf.convert_to_tensor(flat[spec.name], spec.dtype) for spec in specs})

    def sampled(self, **flat: Any) -> dict[str, tf.Tensor]:
        """`sample` with fresh noise, without its log-probability."""
        rows = len(next(iter(flat.values())))
        noise = {
            NOISE_UNIFORM: tf.random.uniform([rows, self.info.noise.uniform], 2.0**-24, 1.0),
            NOISE_NORMAL: tf.random.normal([rows, self.info.noise.normal]),
        }
        outputs = self.call("sample", **flat, **noise)
        return {name: value for name, value in outputs.items() if name != LOG_PROB}


def test_serving_answers_as_the_live_policy_before_and_after_a_checkpoint(exported: Exported, tmp_path: Path) -> None:
    serving = Serving(exported)
    compare(exported, serving, asked_live(exported) if "sample" in serving else {})
    if exported.policy.variables():
        samples = asked_trained(exported) if "sample" in serving else {}
        with exported.trained():
            exported.saver.save_checkpoint(tmp_path / "checkpoint")
            restore(serving.model, tmp_path / "checkpoint")
            compare(exported, serving, samples)


def compare(exported: Exported, serving: Serving, samples: Flat) -> None:
    """Compares all functions; `samples` are the live policy's, where there is `sample`."""
    flat = exported.inputs(exported.batch_size or ROWS, seed=3)
    if not exported.kind.stochastic:
        assert_equal(arrays(exported.live(**flat)), arrays(serving.call("action", **flat)))
    if "distribution" in serving:
        compare_distributions(exported, serving, flat)
    if "greedy" in serving:
        compare_greedy(exported, serving, flat)
    if "sample" in serving:
        assert_agree(exported, samples, ask(exported, serving.sampled))
    if "log_prob" in serving:
        actions = [spec.name for spec in tf.nest.flatten(exported.saver.policy_step_spec.action)]
        drawn = serving.sampled(**flat) if "sample" in serving else serving.call("action", **flat)
        given = {name: drawn[name].numpy() for name in actions}
        found = serving.call(LOG_PROB, **flat, **given)[LOG_PROB]
        leaves = tf.nest.flatten(exported.policy.distribution(*exported.arguments(**flat)).action)
        parts = [d.log_prob(given[name]) for name, d in zip(actions, leaves, strict=True)]
        expected = sum(np.reshape(part, (len(part), -1)).sum(1) for part in parts)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def compare_distributions(exported: Exported, serving: Serving, flat: Flat) -> None:
    found = arrays(serving.call("distribution", **flat))
    step = exported.policy.distribution(*exported.arguments(**flat))
    specs = tf.nest.flatten(exported.saver.policy_step_spec.action)
    for spec, live in zip(specs, tf.nest.flatten(step.action), strict=True):
        info, described = serving.info.distributions[spec.name], flatten(live)
        assert (info.family, set(info.parameters)) == (described.family, set(described.parameters))
        if "random" not in info.details:
            expected = arrays(described.parameters | described.statistics)
            assert_equal(expected, {name: found[f"{spec.name}/{name}"] for name in expected})


def compare_greedy(exported: Exported, serving: Serving, flat: Flat) -> None:
    calm = greedy_policy.GreedyPolicy(without_exploration(exported.policy))
    try:
        expected = exported.named(calm.action(*exported.arguments(**flat)))
    except NotImplementedError:
        expected = exported.live(**flat)  # it has no distribution, but one action
    found = arrays(serving.call("greedy", **flat))
    found.pop(LOG_PROB, None)
    assert_equal(arrays(expected), found)


@pytest.mark.timeout(1800)
def test_serving_runs_where_only_tensorflow_is_installed(
    zoo: Exports, kinds: list[str], tmp_path: Path, full: bool
) -> None:
    """Every function of every kind, in one process without TFP and TF-Agents: the answers are those that come here."""
    jobs, expected = {}, {}
    for name in kinds if full else kinds[::2]:
        exported, serving = zoo[name], Serving(zoo[name])
        flat = exported.inputs(exported.batch_size or ROWS, seed=5)
        functions = ["action", *serving.info.signatures]
        for function in functions:
            inputs = flat | probe(serving, exported, function, flat)
            if function in serving.info.signatures or not exported.kind.stochastic:
                expected[f"{name}.{function}"] = arrays(serving.call(function, **inputs))
            np.savez(tmp_path / f"{name}.{function}.npz", **{n.replace("/", "|"): v for n, v in inputs.items()})
        jobs[name] = {"model": str(exported.folder / SERVING_FOLDER), "functions": functions, "checkpoint": None}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "packages").mkdir()
    packages = packages_of("tensorflow", tmp_path / "packages")
    program = Path(__file__).with_name("alone.py")
    subprocess.run([sys.executable, "-I", "-S", str(program), str(packages), str(tmp_path)], check=True)
    for call, outputs in expected.items():
        with np.load(tmp_path / f"{call}.out.npz", allow_pickle=True) as found:
            if not _random(zoo, call):
                assert_equal(outputs, {name.replace("|", "/"): found[name] for name in found})
    print(f"{len(jobs)} kinds, {len(expected)} functions compared with TensorFlow alone")


def probe(serving: Serving, exported: Exported, function: str, flat: Mapping[str, np.ndarray]) -> Flat:
    """What a function takes besides the inputs of `action`."""
    rows = len(next(iter(flat.values())))
    rng = np.random.default_rng(1)
    noise = serving.info.noise
    if function == "sample":
        return {
            NOISE_UNIFORM: rng.uniform(0.01, 0.99, (rows, noise.uniform)).astype(np.float32),
            NOISE_NORMAL: rng.normal(size=(rows, noise.normal)).astype(np.float32),
        }
    if function == LOG_PROB:
        drawn = serving.sampled(**flat) if "sample" in serving else serving.call("action", **flat)
        return {spec.name: drawn[spec.name].numpy() for spec in tf.nest.flatten(exported.saver.policy_step_spec.action)}
    return {}


def _random(zoo: Exports, call: str) -> bool:
    name, function = call.split(".")
    manifest = read_policy_manifest(zoo[name].folder)
    infos = manifest.serving.distributions if manifest and manifest.serving else {}
    return function == "distribution" and any("random" in info.details for info in infos.values())
