import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver

from app.artifacts.bundle import Bundle, Graph
from app.builder.open_export import metadata_of, train_step_of
from app.engine.base import InputRefused
from app.engine.savedmodel import load
from app.engine.savedmodel.engine import TensorFlowEngine
from app.engine.savedmodel.load import load_copy
from app.errors import UnusablePolicy
from app.inputs.defaults import Defaults
from app.inputs.validate import InputValidator
from saver import PolicySaver
from saver.artifact import POLICY_FILE, Leaf, Nest, leaves, read_policy_manifest
from saver.artifact.probe import probe_inputs
from tests.support import saver_policies as policies
from tests.support.opened import opened
from tests.support.saver_policies import SAVERS, Saved


@pytest.fixture
def export(saved: Saved, tmp_path: Path) -> Path:
    """A copy of an export, for tests that change it."""
    return Path(shutil.copytree(saved.folder("q"), tmp_path / "q"))


@pytest.fixture
def plain(export: Path) -> Path:
    """The same without our manifest: as TF-Agents' own saver writes it."""
    (export / POLICY_FILE).unlink()
    return export


def reason(folder: Path) -> str:
    with pytest.raises(UnusablePolicy) as caught:
        load_copy(opened(folder))
    text = str(caught.value)
    assert str(folder) in text
    return text


def without_bounds(nest: Nest) -> Nest:
    if isinstance(nest, Leaf):
        return replace(nest, minimum=None, maximum=None)
    if isinstance(nest, dict):
        return {key: without_bounds(child) for key, child in nest.items()}
    return tuple(without_bounds(child) for child in nest)


# What kind of policy is it?


@pytest.mark.parametrize("name", SAVERS)
def test_plain_export_says_the_same_as_our_manifest(saved: Saved, tmp_path, name):
    ours = opened(saved.folder(name))
    manifest = read_policy_manifest(saved.folder(name))
    assert manifest is not None
    assert not ours.plain
    assert ours.spec == manifest.spec

    folder = Path(shutil.copytree(saved.folder(name), tmp_path / "plain"))
    (folder / POLICY_FILE).unlink()
    plain = opened(folder)
    assert plain.plain
    expected = ours.spec
    if not expected.takes_time_step:  # TF-Agents writes the bounds of such inputs nowhere
        expected = replace(expected, inputs=without_bounds(expected.inputs))
    assert plain.spec == expected


def test_infinite_bounds_of_a_plain_export_are_the_ends_of_its_dtype(tmp_path):
    observation = policies.tensor_spec.BoundedTensorSpec((2,), tf.float32, [-np.inf, 0.0], np.inf, "observation")
    PolicySaver(policies.q(observation)).save(tmp_path / "q")
    ours = opened(tmp_path / "q").spec.inputs["observation"]
    assert (ours.minimum, ours.maximum) == ([-np.inf, 0.0], np.inf)
    (tmp_path / "q" / POLICY_FILE).unlink()
    plain = opened(tmp_path / "q").spec.inputs["observation"]
    largest = float(np.finfo(np.float32).max)
    assert (plain.minimum, plain.maximum) == ([-largest, 0.0], largest)


def test_export_of_tf_agents_own_saver_is_served(tmp_path):
    policy = policies.q()
    policy_saver.PolicySaver(policy, train_step=tf.Variable(7, dtype=tf.int64)).save(str(tmp_path / "q"))
    export = opened(tmp_path / "q")
    assert export.plain
    assert train_step_of(load_copy(export).model) == 7


def test_digest_differs_between_exports_and_is_stable(saved: Saved, export):
    first = opened(export).digest
    assert first == opened(saved.folder("q")).digest
    PolicySaver(policies.q()).save(export)
    assert opened(export).digest != first
    (export / POLICY_FILE).unlink()
    plain = opened(export).digest
    assert plain == opened(export).digest
    assert plain not in ("", first)


# How do weights get into a copy?


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", SAVERS)
def test_a_restored_copy_has_all_values_of_the_files(saved: Saved, tmp_path, monkeypatch, name, plain, one_by_one):
    folder = Path(shutil.copytree(saved.folder(name), tmp_path / "export"))
    if plain:
        (folder / POLICY_FILE).unlink()
    graph = opened(folder)
    expected, copy = load_copy(graph), load_copy(graph)
    for variable in variables_of(copy):
        variable.assign(tf.zeros_like(variable) if variable.dtype != tf.string else tf.fill(variable.shape, ""))
    monkeypatch.setattr(*((tf.train, "Checkpoint", None) if one_by_one else (load, "_FEW", -1)))
    load.restore(copy, graph, Bundle(tmp_path, graph.digest, graph.digest, -1, "", "", {}))
    found = [variable.numpy() for variable in variables_of(copy)]
    assert found
    for one, other in zip(found, variables_of(expected), strict=True):
        np.testing.assert_array_equal(one, other.numpy())


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_restored_copy_has_all_values_of_a_checkpoint(tmp_path, monkeypatch, one_by_one):
    """As TF-Agents' own saver writes it, and so does ours: the policy is a child of what is saved."""
    policy, train_step = policies.q(), tf.Variable(7, dtype=tf.int64)
    saver = PolicySaver(policy, train_step=train_step)
    saver.save(tmp_path / "q")
    train_step.assign(9)
    for number, variable in enumerate(policy.variables()):
        variable.assign(tf.random.stateless_normal(variable.shape, (3, number)))
    saver.save_checkpoint(tmp_path / "checkpoint")
    graph = opened(tmp_path / "q")
    copy = load_copy(graph)
    monkeypatch.setattr(*((tf.train, "Checkpoint", None) if one_by_one else (load, "_FEW", -1)))
    load.restore(copy, graph, Bundle(tmp_path / "checkpoint", graph.digest, "others", -1, "", "", {}))
    assert train_step_of(copy.model) == 9
    for found, variable in zip(copy.model.model_variables, policy.variables(), strict=True):
        np.testing.assert_array_equal(found.numpy(), variable.numpy())


def variables_of(copy: TensorFlowEngine) -> list[tf.Variable]:
    model = copy.model
    return [*getattr(model, "model_variables", ()), *getattr(model, "metadata", {}).values(), model.train_step]


# What is no policy


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: shutil.rmtree(f), "is not a folder"),
        (lambda f: (f / "saved_model.pb").unlink(), "holds no SavedModel: saved_model.pb is missing"),
        (lambda f: (f / POLICY_FILE).write_text("{"), "is no complete export: policy.json is not JSON"),
        (lambda f: (f / POLICY_FILE).write_text("{}"), "is no complete export: policy.json has format None"),
        (
            lambda f: (f / "saved_model.pb").write_bytes(b"no graph"),
            "is no complete export: saved_model.pb has sha256",
        ),
        (
            lambda f: (f / "variables" / "variables.index").unlink(),
            "is no complete export: variables/variables.index is missing",
        ),
        (lambda f: (f / "fingerprint.pb").unlink(), "is no complete export: fingerprint.pb is missing"),
    ],
    ids=["nothing", "no graph", "broken manifest", "empty manifest", "other graph", "no index", "no fingerprint"],
)
def test_damaged_export_of_ours_is_refused_with_the_reason(export, damage, says):
    damage(export)
    assert says in reason(export)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "saved_model.pb").write_bytes(b"no graph"), "cannot be loaded"),
        (lambda f: (f / "saved_model.pb").write_bytes(b""), "cannot be loaded"),
        (lambda f: truncate(f / "saved_model.pb", 2), "cannot be loaded"),
        (lambda f: shutil.rmtree(f / "variables"), "cannot be loaded"),
        (lambda f: (f / "variables" / "variables.index").unlink(), "cannot be loaded"),
        (lambda f: truncate(f / "variables" / "variables.data-00000-of-00001", 2), "cannot be loaded"),
        (lambda f: (f / "policy_specs.pbtxt").unlink(), "neither policy.json nor policy_specs.pbtxt"),
        (lambda f: (f / "policy_specs.pbtxt").write_text("no specs"), "its specs cannot be read"),
        (lambda f: (f / "policy_specs.pbtxt").write_text(""), "its specs cannot be read"),
    ],
    ids=[
        "no graph", "empty graph", "truncated graph", "no variables", "no index", "truncated shard", "no specs",
        "broken specs", "empty specs",
    ],
)  # fmt: skip
def test_damaged_plain_export_is_refused_with_the_reason(plain, damage, says):
    damage(plain)
    assert says in reason(plain)


def test_a_reason_names_the_folder_and_no_link_to_it(export, tmp_path):
    folder = export.rename(tmp_path / "hidden=[64,64]")
    (folder / POLICY_FILE).unlink()
    shutil.rmtree(folder / "variables")
    assert "policy-saver." not in reason(folder)


def test_a_function_may_read_an_asset_of_a_folder_of_any_name(tmp_path):
    """When it is called, and not only when it is loaded."""
    (tmp_path / "words").write_text("yes")

    class Reader(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = tf.saved_model.Asset(str(tmp_path / "words"))

        @tf.function(input_signature=[])
        def read(self) -> dict[str, tf.Tensor]:
            return {"words": tf.io.read_file(self.words.asset_path)}

    reader = Reader()
    tf.saved_model.save(reader, str(tmp_path / "[1]"), dict.fromkeys(load.SIGNATURES, reader.read))
    model = load.load_model(tmp_path / "[1]", tmp_path)
    assert model.signatures["action"]()["words"].numpy() == b"yes"


def truncate(path: Path, parts: int) -> None:
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // parts])


class Doubler(tf.Module):
    """A SavedModel that is no policy."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2 * x}


@pytest.mark.parametrize(
    ("signatures", "says"),
    [
        (lambda model: {"serving_default": model.double}, "it has no signature 'action', only serving_default"),
        (lambda model: {"action": model.double}, "it has no signature 'get_initial_state', only action"),
        (lambda model: dict.fromkeys(("action", "get_initial_state"), model.double), "is no export of PolicySaver"),
    ],
)
def test_saved_model_that_is_no_policy_is_refused(tmp_path, signatures: Callable, says):
    model = Doubler()
    tf.saved_model.save(model, str(tmp_path / "doubler"), signatures(model))
    assert says in reason(tmp_path / "doubler")


def test_saved_model_without_any_signature_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    assert "it has no signature 'action', only none at all" in reason(tmp_path / "empty")


# The copied graph


def test_a_graph_is_copied_once_and_read_without_tensorflow_afterwards(export, tmp_path):
    first = opened(export)
    assert (Graph.read(first.folder), opened(export)) == (first, first)
    assert {path.name for path in first.folder.parent.iterdir()} == {first.digest}


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_a_copy_is_independent_of_the_export_it_came_from(export, kind):
    if kind == "plain":
        (export / POLICY_FILE).unlink()
    (export / "checkpoints").mkdir()
    (export / "checkpoints" / "huge").write_text("not part of the graph")
    graph = opened(export)
    shutil.rmtree(export)
    engine = load_copy(graph)
    assert engine.run("action", probe_inputs(graph.spec, engine.initial_state(2), 2))["action"].shape == (2,)
    assert not list(graph.folder.rglob("huge"))


def test_a_damaged_copy_is_made_anew(export):
    graph = opened(export)
    (graph.folder / "serving" / "saved_model.pb").write_bytes(b"no graph")
    assert Graph.read(graph.folder) is None
    load_copy(opened(export))


# Copies


def test_copies_share_no_variables(saved: Saved):
    export = opened(saved.folder("q"))
    first, second = load_copy(export), load_copy(export)
    inputs = probe_inputs(export.spec, first.initial_state(4), 4)
    before = first.run("distribution", inputs)["action/logits"]
    for variable in second.model.model_variables:
        variable.assign(tf.ones_like(variable) * 3)
    np.testing.assert_array_equal(first.run("distribution", inputs)["action/logits"], before)
    assert not np.array_equal(second.run("distribution", inputs)["action/logits"], before)


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_kind_of_export_answers_any_number_of_rows(saved: Saved, name, rows):
    export = opened(saved.folder(name))
    engine = load_copy(export)
    outputs = engine.run("action", probe_inputs(export.spec, engine.initial_state(rows), rows))
    for nest in (export.spec.action, export.spec.state, export.spec.info):
        for _, leaf in leaves(nest):
            assert outputs[leaf.name].shape == (rows, *leaf.shape)
            assert outputs[leaf.name].dtype == leaf.dtype
    initial = engine.initial_state(rows)
    assert {leaf.name: (rows, *leaf.shape) for _, leaf in leaves(export.spec.initial_state)} == {
        name: array.shape for name, array in initial.items()
    }


def test_request_goes_through_validation_and_engine_to_what_the_policy_answers(saved: Saved):
    export = opened(saved.folder("nested"))
    engine = load_copy(export)
    reader = InputValidator(export.spec, rows_limit=10, strict_bounds=False)
    observation = {"camera": [[1, 2], [3, 4]], "speed": 0.5, "joints": [[0.25, -3.0], [2, 0]]}
    inputs = reader.read({"observation": observation})
    arrays = Defaults(export.spec).complete(inputs.arrays, 1, engine.initial_state(1))
    outputs = engine.run("action", arrays)
    assert outputs["action/move"].tolist() == [[0.25, -1.0]]
    assert outputs["action/grip"].tolist() == [2]
    assert outputs["state/count"].tolist() == [1]
    assert outputs["state/trace/0"].tolist() == [[0.25, -3.0]]
    assert outputs["info/speed_seen"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "families", "why_not"),
    [
        ("q", {"action": "categorical"}, ""),
        ("recurrent", {"action": "categorical"}, ""),
        ("fixed batch", {"action": "categorical"}, ""),
        ("nested", None, "NestedPolicy has none"),
        ("random", None, "RandomTFPolicy has none"),
    ],
)
def test_distributions_are_described_or_their_lack_explained(saved: Saved, name, families, why_not):
    serving = opened(saved.folder(name)).serving
    if families is None:
        assert "distribution" not in serving.signatures
        assert why_not in serving.unavailable["distribution"]
    else:
        assert {leaf: info.family for leaf, info in serving.distributions.items()} == families
        assert "distribution" not in serving.unavailable


def test_train_step_and_every_entry_of_the_metadata_are_read(tmp_path):
    metadata = {
        "frames": tf.Variable(6, dtype=tf.int64),
        "episodes": tf.Variable(5, dtype=tf.int64),
        "map": tf.Variable("desert"),
    }
    PolicySaver(policies.q(), train_step=tf.Variable(11), metadata=metadata).save(tmp_path / "q")
    model = load_copy(opened(tmp_path / "q")).model
    assert train_step_of(model) == 11
    found = metadata_of(model)
    assert found == json.loads(json.dumps(found)) == {"frames": 6, "episodes": 5, "map": "desert"}


def test_input_that_the_graph_refuses_is_the_callers_cause(tmp_path):
    class Picky(policies.NestedPolicy):
        def _action(self, time_step, policy_state, seed=None):
            tf.debugging.assert_less(time_step.observation["speed"], 0.9, "too fast")
            return super()._action(time_step, policy_state, seed)

    PolicySaver(Picky()).save(tmp_path / "picky")
    export = opened(tmp_path / "picky")
    engine = load_copy(export)
    inputs = probe_inputs(export.spec, engine.initial_state(4), 4)
    inputs["0/observation/speed"][:] = 0.5
    engine.run("action", inputs)
    inputs["0/observation/speed"][1] = 0.95
    with pytest.raises(InputRefused, match="too fast"):
        engine.run("action", inputs)
