import copy
import errno
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver

from app.artifacts.bundle import LITERT, TENSORFLOW, Bundle
from app.artifacts.checkpoint_identity import INDEX, identify
from app.builder import builder as builder_module
from app.builder import engine_choice
from app.builder.builder import Builder
from app.builder.open_export import open_export
from app.builder.probe import Trial
from app.engine.savedmodel.load import load_copy
from app.errors import SwapRefused
from app.versions.loader import BundleLoader
from saver import PolicySaver
from saver.artifact import CHECKPOINT_FILE, write_checkpoint_manifest
from saver.artifact.probe import probe_inputs
from tests.support import demanding
from tests.support import saver_policies as policies
from tests.support.opened import opened


class Trainer:
    """A policy in training: its export, and checkpoints with weights that are all `value`."""

    def __init__(self, folder: Path, units: int = 3) -> None:
        self.folder = folder
        self.policy = policies.q(units=units)
        self.train_step = tf.Variable(0, dtype=tf.int64)
        self.saver = PolicySaver(self.policy, train_step=self.train_step)
        self.saver.save(folder, verify=False)
        self._exported = [variable.numpy() for variable in self.policy.variables()]

    def copied(self, folder: Path) -> "Trainer":
        """Another one with the same policy, which has the weights of its export again."""
        shutil.copytree(self.folder, folder)
        self.train_step.assign(0)
        for variable, value in zip(self.policy.variables(), self._exported, strict=True):
            variable.assign(value)
        other = copy.copy(self)
        other.folder = folder
        return other

    def publish(self, train_step: int, value: float) -> Path:
        self.train_step.assign(train_step)
        for variable in self.policy.variables():
            variable.assign(tf.ones_like(variable) * value)
        checkpoint = self.folder / "checkpoints" / f"{train_step:010d}"
        self.saver.save_checkpoint(checkpoint)
        return checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("original") / "policy")


@pytest.fixture
def trainer(original: Trainer, tmp_path: Path) -> Trainer:
    return original.copied(tmp_path / "policy")


@pytest.fixture
def bench(trainer: Trainer) -> "Bench":
    return Bench(trainer.folder)


class Bench:
    """The builder of a policy, and where its bundles go."""

    def __init__(self, folder: Path) -> None:
        self.graph = opened(folder)
        self.builder = Builder(self.graph, TENSORFLOW)  # whose weights can be seen
        self.bundles = folder.parent / "bundles"

    def prepare(self, source: Path | None, recorded=(), **how) -> Bundle:
        digest = identify(source, 0, lambda *_: -1).digest if source else self.graph.digest
        return self.builder.prepare(source, digest, self.bundles / digest, Trial(recorded, **how)).bundle

    def refusal(self, source: Path | None, recorded=(), **how) -> str:
        before = list(self.bundles.iterdir()) if self.bundles.exists() else []
        with pytest.raises(SwapRefused) as caught:
            self.prepare(source, recorded, **how)
        assert (list(self.bundles.iterdir()) if self.bundles.exists() else []) == before
        return str(caught.value)

    def weights(self, bundle: Bundle) -> list:
        """What a worker that loads the bundle runs on."""
        engine = BundleLoader().load(self.graph, bundle)
        return [float(variable.numpy().flat[0]) for variable in engine.model.model_variables]


def test_bundle_holds_what_the_checkpoint_held(trainer, bench):
    bundle = bench.prepare(trainer.publish(700, 0.25))
    assert (bundle.train_step, bundle.metadata, bundle.graph) == (700, {}, bench.graph.digest)
    assert Bundle.read(bundle.folder) == bundle
    assert set(bench.weights(bundle)) == {0.25}


def test_versions_do_not_touch_each_other(trainer, bench):
    bundles = [bench.prepare(trainer.publish(step, step / 2)) for step in range(1, 4)]
    assert [set(bench.weights(bundle)) for bundle in bundles] == [{0.5}, {1.0}, {1.5}]


def test_the_exports_own_weights_can_be_had_again_after_others(trainer, bench):
    before = [float(variable.numpy().flat[0]) for variable in trainer.policy.variables()]
    bench.prepare(trainer.publish(7, 0.25))
    bundle = bench.prepare(None)
    assert bundle.train_step == 0
    assert bench.weights(bundle) == before


def test_a_worker_restores_the_next_version_into_the_copy_that_nobody_uses(trainer, bench):
    loader = BundleLoader()
    first = bench.prepare(trainer.publish(1, 0.5))
    second = bench.prepare(trainer.publish(2, 1.5))
    engine = loader.load(bench.graph, first)
    loader.give_back(engine)
    assert loader.load(bench.graph, second) is engine
    assert loader.load(bench.graph, first) is not engine


def test_the_folders_of_exports_and_of_the_server_may_have_any_name(original, tmp_path, monkeypatch):
    """TensorFlow takes what it reads for a pattern, but writes where it is asked to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "job.1234[5]"))
    Path(tempfile.gettempdir()).mkdir()
    trainer = original.copied(tmp_path / "hidden=[64,64],b=a\\b" / "policy")
    bench = Bench(trainer.folder)
    bundle = bench.prepare(trainer.publish(7, 0.25))
    assert set(bench.weights(bundle)) == {0.25}
    assert bench.prepare(None).train_step == 0
    compiled = Builder(bench.graph).prepare(None, bench.graph.digest, bench.bundles / "compiled").bundle
    assert compiled.engine == LITERT, compiled.engine_reason


# Large weights


@pytest.fixture
def large(tmp_path) -> Trainer:
    """A policy with a variable of more than a megabyte."""
    return Trainer(tmp_path / "large", units=70_000)


def all_weights(engine) -> set[float]:
    return {float(number) for variable in engine.model.model_variables for number in np.unique(variable.numpy())}


def test_large_weights_of_later_versions_take_the_memory_of_those_before(large):
    bench, loader = Bench(large.folder), BundleLoader()
    active = loader.load(bench.graph, bench.prepare(None))
    loader.stand_by(bench.graph, bench.prepare(None))
    places = []
    for number in range(1, 7):
        engine = loader.load(bench.graph, bench.prepare(large.publish(number, number / 2)))
        assert all_weights(engine) == {number / 2}
        assert {output.dtype.name for output in asked(engine, bench.graph).values()} == {"int64"}
        places.append(largest_of(engine).ctypes.data)
        loader.give_back(active)
        active = engine
    assert len(set(places)) == 2
    assert places[0::2] == [places[0]] * 3


def asked(engine, graph) -> dict:
    return engine.run("action", probe_inputs(graph.spec, {}, 3))


def largest_of(engine) -> np.ndarray:
    """Its largest variable, in its own memory."""
    largest = max(engine.model.model_variables, key=lambda variable: variable.shape.num_elements())
    return np.asarray(memoryview(largest.read_value()))


def test_an_array_that_somebody_has_of_large_weights_stays_as_it_was(large):
    bench, loader = Bench(large.folder), BundleLoader()
    engine = loader.load(bench.graph, bench.prepare(None))
    loader.give_back(engine)
    assert loader.load(bench.graph, bench.prepare(large.publish(1, 0.5))) is engine
    held = largest_of(engine)
    loader.give_back(engine)
    assert loader.load(bench.graph, bench.prepare(large.publish(2, 1.5))) is engine
    assert all_weights(engine) == {1.5}
    assert np.unique(held).tolist() == [0.5]


def test_a_copy_that_a_large_value_cannot_be_read_into_is_given_up(large):
    bench, loader = Bench(large.folder), BundleLoader()
    bundles = [bench.prepare(large.publish(number, number / 2)) for number in (1, 2)]
    engine = loader.load(bench.graph, bundles[0])
    loader.give_back(engine)
    os.truncate(bundles[1].folder / SHARD, 100)
    with pytest.raises(SwapRefused, match="cannot be restored"):
        loader.load(bench.graph, bundles[1])
    other = loader.load(bench.graph, bundles[0])
    assert other is not engine
    assert all_weights(other) == {0.5}


def test_large_values_of_which_the_shape_may_change_do_so(tmp_path):
    policy = policies.q()
    seen = tf.Variable(tf.ones([300_000]), shape=tf.TensorShape([None]))
    saver = PolicySaver(policy, train_step=tf.Variable(0, dtype=tf.int64), metadata={"seen": seen})
    saver.save(tmp_path / "policy", verify=False)
    bench, loader = Bench(tmp_path / "policy"), BundleLoader()
    for number in (300_001, 300_002, 299_999):
        seen.assign(tf.ones([number]))
        folder = tmp_path / "policy" / "checkpoints" / str(number)
        saver.save_checkpoint(folder)
        engine = loader.load(bench.graph, bench.prepare(folder))
        assert engine.model.metadata["seen"].numpy().shape == (number,)
        loader.give_back(engine)


def test_one_large_variable_that_has_two_names_has_one_value(tmp_path):
    policy = policies.q(units=70_000)
    largest = max(policy.variables(), key=lambda variable: variable.shape.num_elements())
    saver = PolicySaver(policy, train_step=tf.Variable(0, dtype=tf.int64), metadata={"kernel": largest})
    saver.save(tmp_path / "policy", verify=False)
    bench, loader = Bench(tmp_path / "policy"), BundleLoader()
    for value in (0.5, 1.5, 2.5):
        for variable in policy.variables():
            variable.assign(tf.ones_like(variable) * value)
        folder = tmp_path / "policy" / "checkpoints" / str(value).replace(".", "-")
        saver.save_checkpoint(folder)
        engine = loader.load(bench.graph, bench.prepare(folder))
        assert all_weights(engine) == {value}
        assert len(engine.rooms) == 1
        loader.give_back(engine)


def test_a_large_checkpoint_without_digests_is_read_with_its_checksums(large):
    bench = Bench(large.folder)
    folder = large.publish(1, 0.5)
    (folder / CHECKPOINT_FILE).unlink()
    flip(folder / SHARD)
    assert "cannot be read" in bench.refusal(folder)


def test_files_of_a_deleted_version_are_written_over(large):
    bench = Bench(large.folder)
    first = bench.prepare(large.publish(1, 0.5))
    with (first.folder / SHARD).open("rb") as file:
        shutil.rmtree(first.folder)
        kept = os.fstat(file.fileno())
    second = bench.prepare(large.publish(2, 1.5))
    assert (second.folder / SHARD).stat().st_ino == kept.st_ino
    assert kept.st_nlink == 1, "it was not free for any other file"
    assert set(bench.weights(second)) == {1.5}


def test_what_happens_to_the_checkpoint_afterwards_does_not_matter(trainer, bench):
    folder = trainer.publish(1, 0.5)
    bundle = bench.prepare(folder)
    shutil.rmtree(folder)
    assert set(bench.weights(bundle)) == {0.5}


SHARD = Path("variables", "variables.data-00000-of-00001")


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


DAMAGES = {
    "index missing": (lambda f: (f / "variables" / INDEX).unlink(), "variables.index is missing"),
    "shard missing": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing"),
    "shard truncated": (lambda f: os.truncate(f / SHARD, 40), f"{SHARD} has sha256 .*, its manifest says"),
    "shard flipped": (lambda f: flip(f / SHARD), f"{SHARD} has sha256 .*, its manifest says"),
    "index flipped": (lambda f: flip(f / "variables" / INDEX), "variables.index has sha256 .*, its manifest says"),
    "a link": (lambda f: link_out(f / SHARD), f"{SHARD} leads outside 0000000007"),
    "a FIFO": (lambda f: ((f / SHARD).unlink(), os.mkfifo(f / SHARD)), f"{SHARD} cannot be read: not a regular file"),
    "gone": (shutil.rmtree, "is missing|cannot be read"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_by_the_manifest(trainer, bench, damage, says):
    folder = trainer.publish(7, 0.5)
    digest = identify(folder, 0, lambda *_: -1).digest
    damage(folder)
    with pytest.raises(SwapRefused, match=says):
        bench.builder.prepare(folder, digest, bench.bundles / digest)
    bench.prepare(trainer.publish(8, 0.5))


def test_manifest_of_another_save_is_refused(trainer, bench):
    folder, other = trainer.publish(7, 0.5), trainer.publish(8, 0.75)
    shutil.copy(other / CHECKPOINT_FILE, folder / CHECKPOINT_FILE)
    assert "has sha256" in bench.refusal(folder)


def test_manifest_with_another_train_step_is_refused(trainer, bench):
    folder = trainer.publish(7, 0.5)
    write_checkpoint_manifest(folder, 8)
    assert bench.refusal(folder) == "checkpoint.json says train step 8, the weights say 7"


def test_checkpoint_that_was_replaced_since_it_was_identified_is_refused(trainer, bench):
    folder = trainer.publish(7, 0.5)
    with pytest.raises(SwapRefused, match="it was replaced while it was read"):
        bench.builder.prepare(folder, "another digest", bench.bundles / "x")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda trainer: trainer.publish(1, np.nan), "NaN"),
        (lambda trainer: Trainer(trainer.folder.parent / "other", units=5).publish(1, 1.0), "the policy has"),
    ],
    ids=["NaN", "another architecture"],
)
def test_refused_checkpoint_leaves_the_builder_as_it_was(trainer, bench, spoil, says):
    assert says in bench.refusal(spoil(trainer))
    assert set(bench.weights(bench.prepare(trainer.publish(2, 0.75)))) == {0.75}


def test_checkpoint_can_be_judged_where_it_lies(trainer, bench):
    folder = trainer.publish(7, 0.5)
    assert bench.builder.check(folder) == 7
    flip(folder / SHARD)
    with pytest.raises(SwapRefused, match="has sha256"):
        bench.builder.check(folder)
    with pytest.raises(SwapRefused, match="NaN"):
        bench.builder.check(trainer.publish(8, np.nan))


def test_disk_without_room_is_not_taken_for_a_bad_checkpoint(trainer, bench, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = trainer.publish(7, 0.5)
    monkeypatch.setattr(builder_module, "copy_files", full)
    with pytest.raises(SwapRefused, match="no room for a copy of it: No space left on device") as caught:
        bench.prepare(folder)
    assert caught.value.for_now
    assert list(bench.bundles.iterdir()) == []


# Probing


class Astray(policies.NestedPolicy):
    """Its weight is its action: out of bounds or not finite as one likes."""

    def _action(self, time_step, policy_state, seed=None):
        step = super()._action(time_step, policy_state, seed)
        like = tf.cast(step.action["grip"], tf.float32) * 0 + self._weight
        move = tf.stack([like, like], -1)
        grip = tf.cast(tf.where(tf.math.is_finite(like), like, 0), tf.int32)
        return step._replace(action={"move": move, "grip": grip})


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (2.0, None),
        (1e30, "action/grip is"),
        (-1.0, "action/grip is -1 to -1, outside its bounds"),
        (3.0, "action/grip is 3 to 3, outside its bounds"),
    ],
)
def test_weights_that_answer_what_the_spec_excludes_serve_in_an_export_and_not_in_a_checkpoint_after_better_ones(
    tmp_path, weight, says
):
    policy = Astray(clip=False)
    saver = PolicySaver(policy)
    saver.save(tmp_path / "good", verify=False)
    policy._weight.assign(weight)
    saver.save(tmp_path / "bad", verify=False)
    saver.save_checkpoint(tmp_path / "checkpoint")
    probed = Bench(tmp_path / "bad").prepare(None).probed
    if says is None:
        assert probed == {"asked": 4, "answered": 4, "problems": []}
        assert Bench(tmp_path / "good").prepare(tmp_path / "checkpoint").probed == probed
        return
    assert (probed["asked"], probed["answered"], len(probed["problems"])) == (4, 0, 4)
    assert says in probed["problems"][0]
    assert says in Bench(tmp_path / "good").refusal(tmp_path / "checkpoint")


def test_an_export_whose_action_is_never_finite_is_served_by_tensorflow_and_the_description_says_so(tmp_path):
    policy = Astray(clip=False)
    policy._weight.assign(np.nan)
    PolicySaver(policy).save(tmp_path / "p")
    graph = opened(tmp_path / "p")
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "bundle").bundle
    assert bundle.engine == TENSORFLOW
    assert bundle.engine_reason.startswith("no probe input is answered, so that LiteRT's answers cannot be compared")
    assert "action/move is not finite" in bundle.engine_reason
    assert Bundle.read(bundle.folder) == bundle


def test_inputs_of_real_requests_have_to_be_answered_too(tmp_path):
    class Strict(policies.NestedPolicy):
        """Its weight is the fastest that it can cope with."""

        def _action(self, time_step, policy_state, seed=None):
            step = super()._action(time_step, policy_state, seed)
            speed = time_step.observation["speed"]
            move = tf.where((speed > self._weight)[:, None], np.nan, step.action["move"])
            return step._replace(action={**step.action, "move": move})

    policy = Strict(clip=False)
    policy._weight.assign(1.0)
    saver = PolicySaver(policy)
    saver.save(tmp_path / "p", verify=False)
    bench = Bench(tmp_path / "p")
    row = {
        "0/step_type": np.zeros(1, np.int32),
        "0/reward": np.zeros(1, np.float32),
        "0/discount": np.ones(1, np.float32),
        "0/observation/camera": np.zeros((1, 2, 2), np.uint8),
        "0/observation/speed": np.full(1, 0.5, np.float32),
        "0/observation/joints/0": np.zeros((1, 2), np.float32),
        "0/observation/joints/1": np.zeros((1, 2), np.int32),
        "noise/uniform": np.zeros((1, 1), np.float32),
    }
    served = bench.prepare(None, [row])
    fast = row | {"0/observation/speed": np.full(1, 1.5, np.float32)}
    faster = row | {"0/observation/speed": np.full(1, 2.5, np.float32)}
    policy._weight.assign(2.0)
    saver.save_checkpoint(tmp_path / "better")
    better = bench.prepare(tmp_path / "better", [row, fast], serving=(bench.graph, served))
    assert better.probed["answered"] == better.probed["asked"] == 6
    # What the version that serves fails on too is not held against a new one.
    again = bench.prepare(tmp_path / "better", [faster], serving=(bench.graph, better))
    assert again.probed["problems"] == ["an input of a real request: action/move is not finite"]
    policy._weight.assign(1.0)
    saver.save_checkpoint(tmp_path / "worse")
    expected = "action/move is not finite on an input of a real request"
    assert bench.refusal(tmp_path / "worse", [row, fast], serving=(bench.graph, better)) == expected
    assert bench.prepare(tmp_path / "worse", [row, fast], serving=(bench.graph, served)).probed["answered"] == 5


def test_policies_that_differ_in_weights_alone_are_compiled_once(original, tmp_path, monkeypatch):
    compilers, make = [], engine_choice.Compiler
    monkeypatch.setattr(engine_choice, "Compiler", lambda *of: compilers.append(make(*of)) or compilers[-1])
    graphs = [opened(original.copied(tmp_path / "a" / "policy").folder)]
    for number, variable in enumerate(original.policy.variables()):
        variable.assign(tf.random.stateless_uniform(variable.shape, [number, 7]))
    original.train_step.assign(9)
    original.saver.save(tmp_path / "b" / "policy", verify=False)
    graphs.append(opened(tmp_path / "b" / "policy"))
    assert graphs[0].digest != graphs[1].digest
    again = open_export(tmp_path / "b" / "policy", tmp_path / "graphs", graphs[:1])
    assert replace(again, folder=graphs[1].folder) == graphs[1]
    assert (again.files, again.train_step) == (graphs[1].files, 9)

    one = Builder(graphs[0])
    other = Builder(graphs[1], like=one)
    made = [
        builder.prepare(None, builder.graph.digest, tmp_path / str(number)).bundle
        for number, builder in enumerate((one, other, one))
    ]
    assert len(compilers) == 1
    alone = [Builder(graph).prepare(None, graph.digest, tmp_path / graph.digest).bundle for graph in graphs]
    for bundle, own in zip(made, [*alone, alone[0]], strict=True):
        assert (bundle.engine, bundle.graph, bundle.train_step) == ("litert", own.graph, own.train_step)
        assert bundle.files == own.files
    assert made[0].files == made[2].files != made[1].files


def test_what_is_compiled_is_compared_on_the_probes_that_are_answered(tmp_path, monkeypatch):
    """Inputs that are made up for the comparison may all be refused: then it would compare nothing."""
    PolicySaver(demanding.MAKERS["some ids"]()).save(tmp_path / "p")
    graph = opened(tmp_path / "p")
    compared = []

    def check_equivalence(pair, rows, recorded, draws, apart, joined):
        assert apart
        assert not joined
        compared.extend(float(row["0/observation"][0]) for row in recorded)

    monkeypatch.setattr(engine_choice, "check_equivalence", check_equivalence)
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "bundle").bundle
    assert (bundle.engine, bundle.probed["answered"]) == ("litert", 2)
    assert compared == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["one row", "logarithm", "integer quotient"])
def test_one_that_takes_one_row_a_call_is_not_taken_for_one_that_refuses_some_rows(tmp_path, name):
    PolicySaver(demanding.MAKERS[name]()).save(tmp_path / "p", verify=False)
    graph = opened(tmp_path / "p")
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "bundle").bundle
    assert bundle.sharing.one_row is (name == "one row")
    assert bundle.engine == ("litert" if name == "logarithm" else TENSORFLOW)
    assert BundleLoader().load(graph, bundle).name == bundle.engine


def test_an_answer_that_fails_where_the_one_before_it_did_not_keeps_a_checkpoint_out(tmp_path):
    """Whether it raises depends on its weight."""

    def answer(weight, observation, _):
        check = tf.debugging.assert_less(observation, weight, message="above the weight")
        with tf.control_dependencies([check]):
            return observation + weight

    policy = demanding.Demanding(demanding.NUMBER, answer, weight=0.5)
    saver = PolicySaver(policy)
    saver.save(tmp_path / "p", verify=False)
    bench = Bench(tmp_path / "p")
    served = bench.prepare(None)
    assert served.probed["answered"] == 3
    for weight, name in ((0.4, "as before"), (2.0, "better"), (0.0, "worse")):
        policy.weight.assign(weight)
        saver.save_checkpoint(tmp_path / name)
    assert bench.prepare(tmp_path / "as before", serving=(bench.graph, served)).probed["answered"] == 3
    better = bench.prepare(tmp_path / "better", serving=(bench.graph, served))
    assert better.probed["answered"] == 4
    worse = bench.refusal(tmp_path / "worse", serving=(bench.graph, served))
    assert "above the weight" in worse
    assert worse.endswith("on probe input 3 (observation 0.33333334)")
    assert "above the weight" in bench.refusal(tmp_path / "as before", serving=(bench.graph, better))
    # What is in a copy afterwards is what was prepared last, and not what it was compared with.
    assert set(bench.weights(bench.prepare(tmp_path / "better", serving=(bench.graph, better)))) == {2.0}
    # Before anything serves, it is the export's own weights that count.
    assert "above the weight" in bench.refusal(tmp_path / "worse")


def test_a_new_export_over_one_that_serves_has_to_answer_what_that_one_answers(tmp_path):
    policy = demanding.MAKERS["logarithm"]()
    PolicySaver(policy).save(tmp_path / "old", verify=False)
    policy.weight.assign(np.nan)
    PolicySaver(policy).save(tmp_path / "new", verify=False)
    old, new = Bench(tmp_path / "old"), Bench(tmp_path / "new")
    serving = (old.graph, old.prepare(None))
    expected = "action is not finite on probe input 3 (observation 0.33333334)"
    assert new.refusal(None, serving=serving) == expected
    assert new.prepare(None).probed["answered"] == 0, "alone it is served"


@pytest.mark.parametrize("saver", [PolicySaver, policy_saver.PolicySaver])
def test_exports_of_equal_weights_and_other_constants_are_two_versions(tmp_path, saver):
    for number in (1, 2):
        policy = demanding.Demanding(
            demanding.NUMBER, lambda weight, observation, _, n=number: observation + n * weight
        )
        saver(policy).save(str(tmp_path / f"policy_{number}"))
    first, second = Bench(tmp_path / "policy_1"), tmp_path / "policy_2"
    assert first.builder.needs_own_graph(second)
    bundles = [bench.prepare(second) for bench in (first, Bench(second))]
    assert bundles[0].digest == bundles[1].digest != identify(tmp_path / "policy_1", 0, lambda *_: -1).digest
    # What lies in a bundle makes the same version again, once the export is gone.
    shutil.rmtree(second)
    assert first.prepare(bundles[1].folder).digest == bundles[1].digest


def test_probe_inputs_are_inside_the_bounds_and_begin_an_episode(saved):
    graph = opened(saved.folder("nested"))
    inputs = probe_inputs(graph.spec, load_copy(graph).initial_state(4), rows=4)
    assert inputs["0/step_type"].tolist() == [0] * 4
    assert inputs["0/discount"].tolist() == [1.0] * 4
    assert inputs["0/observation/camera"].dtype == np.uint8
    right = inputs["0/observation/joints/1"]
    assert ((right >= [0, -5]) & (right <= [3, 5])).all()
    assert (np.abs(inputs["0/observation/speed"]) <= 1).all()
    assert inputs["1/trace/0"].shape == (4, 2)


@pytest.mark.parametrize(("known", "most"), [(True, "_MOST_BYTES"), (False, "_MOST_UNDER_LOCK")])
def test_a_policy_of_more_weights_than_pays_stays_on_tensorflow(tmp_path, monkeypatch, known, most):
    PolicySaver(policies.q()).save(tmp_path / "p", verify=False)
    graph = opened(tmp_path / "p")
    monkeypatch.setattr(engine_choice, "is_known", lambda: known)
    monkeypatch.setattr(engine_choice, most, 1 << 3)
    bundle = Builder(graph).prepare(None, graph.digest, tmp_path / "bundle").bundle
    assert (bundle.engine, bundle.engine_reason) == (
        TENSORFLOW,
        "it has 0 MB of weights: up to 7.62939e-06 MB are compiled",
    )
