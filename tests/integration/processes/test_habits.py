"""What trainers do with TF-Agents' own PolicySaver, and what else lies where they write."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.policies import policy_saver
from tf_agents.trajectories import policy_step
from tf_agents.utils import common

from tests.support import processes
from tests.support import saver_policies as policies
from tests.support.policies import NumberPolicy, NumberTrainer
from tests.support.server import RunningServer, command, environment, serving
from tests.support.steady import SteadyLoad, until


class ScaledPolicy(NumberPolicy):
    """Its action is `scale` times the number: a Python number, and so a constant of its graph."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        super().__init__()

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        row = tf.cast(time_step.observation[:, 0], tf.int64)
        both = tf.stack([self._scale * self.first + row, self._scale * self.last + row], axis=1)
        return policy_step.PolicyStep(tfp.distributions.Deterministic(both), policy_state)


class Series:
    """`saver.save('policy_%d' % step)`, as TF-Agents' documentation has it."""

    def __init__(self, folder: Path, scale: int = 1000) -> None:
        self.folder = folder
        self._policy = ScaledPolicy(scale)
        self._train_step = tf.Variable(0, dtype=tf.int64)
        self._saver = policy_saver.PolicySaver(self._policy, train_step=self._train_step)

    def save(self, step: int, folder: Path | None = None, name: str = "") -> None:
        self._policy.set_number(step)
        self._train_step.assign(step)
        self._saver.save(str((folder or self.folder) / (name or f"policy_{step}")))


class Scenario:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.series = Series(folder / "many")
        for step in (90, 100):
            self.series.save(step)
        self.one = NumberTrainer(folder / "one", plain=True)
        self.ours = NumberTrainer(folder / "ours")
        self.server: RunningServer

    def saved_again(self, trainer: NumberTrainer, step: int) -> None:
        trainer.policy.set_number(step)
        trainer._train_step.assign(step)
        trainer.saver.save(str(trainer.folder))

    def serves(self, policy: str) -> tuple[str, int, list[int]]:
        answer = self.server.http.post(f"/v1/policies/{policy}/action", json={"observation": [7, 0, 0, 0]}).json()
        return answer["version"], answer["train_step"], answer["action"]

    def until_it_serves(self, policy: str, version: str, step: int) -> None:
        expected = version, step, [1000 * step + 7] * 2
        until(lambda: self.serves(policy) == expected, f"{policy}: {expected}")

    def reason(self, policy: str, version: str) -> str | None:
        """Why it is refused; None where it is not."""
        rows = self.server.admin.get(f"/admin/policies/{policy}/versions").json()["versions"]
        return next((r["reason"] for r in rows if r["version"] == version and r["state"] == "refused"), None)

    def refused(self, policy: str, version: str) -> str:
        until(lambda: self.reason(policy, version) is not None, f"{version} refused")
        return str(self.reason(policy, version))

    def described(self, policy: str) -> dict[str, Any]:
        described: dict[str, Any] = self.server.http.get(f"/v1/policies/{policy}").json()
        return described


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    made = Scenario(tmp_path_factory.mktemp("habits"))
    (made.folder / "empty").mkdir()
    folders = {name: made.folder / name for name in ("many", "one", "ours", "empty", "absent")}
    with serving(folders, "--workers", "2") as made.server:
        yield made
    assert "Traceback" not in "\n".join(made.server.lines)


def test_a_folder_of_exports_is_served_by_its_newest(scenario: Scenario) -> None:
    assert scenario.serves("many") == ("policy_100", 100, [100_007] * 2)
    assert scenario.server.reload("many", checkpoint="policy_90").json()["version"] == "policy_90"
    assert scenario.serves("many") == ("policy_90", 90, [90_007] * 2)
    assert scenario.server.reload("many").json()["version"] == "policy_100"
    scenario.series.save(110)
    scenario.until_it_serves("many", "policy_110", 110)


@pytest.mark.parametrize("name", [pytest.param("empty", marks=pytest.mark.only_full), "absent"])
def test_a_folder_of_exports_is_served_when_its_first_one_arrives(scenario: Scenario, name: str) -> None:
    answer = scenario.server.http.post(f"/v1/policies/{name}/action", json={"observation": [7, 0, 0, 0]})
    assert (answer.status_code, answer.json()["title"]) == (503, "Not ready")
    series = Series(scenario.folder / name)
    series.save(5)
    until(lambda: scenario.server.http.get(f"/v1/policies/{name}").status_code == 200, f"{name} is open")
    assert scenario.serves(name) == ("policy_5", 5, [5_007] * 2)
    series.save(6)
    scenario.until_it_serves(name, "policy_6", 6)
    assert scenario.server.reload(name, checkpoint="policy_5").json()["version"] == "policy_5"
    # An upload goes to where the others are, whichever worker takes it.
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.add(scenario.folder / name / "policy_6" / "variables", "variables")
    answer = scenario.server.admin.put(f"/admin/policies/{name}/checkpoints/sent", content=tar.getvalue())
    assert answer.status_code == 201, answer.text
    assert (scenario.folder / name / "sent" / "variables" / "variables.index").exists()


def test_an_export_with_other_constants_serves_with_its_own_graph(scenario: Scenario) -> None:
    other = Series(scenario.series.folder, scale=2000)
    for series, step, thousands in ((other, 111, 222), (scenario.series, 112, 112), (other, 113, 226)):
        series.save(step)
        expected = f"policy_{step}", step, [1000 * thousands + 7] * 2
        until(lambda: scenario.serves("many") == expected, f"{expected}")  # noqa: B023
    for step, thousands in ((112, 112), (111, 222)):
        assert scenario.server.admin.post("/admin/policies/many/rollback").json()["train_step"] == step
        assert scenario.serves("many") == (f"policy_{step}", step, [1000 * thousands + 7] * 2)
    assert scenario.server.reload("many").json()["version"] == "policy_113"
    assert scenario.serves("many") == ("policy_113", 113, [226_007] * 2)


def test_an_export_of_equal_variables_and_another_constant_is_another_version(scenario: Scenario) -> None:
    other = Series(scenario.series.folder, scale=3000)
    for series, name, thousands in ((other, "policy_114", 339), (scenario.series, "policy_115", 113)):
        series.save(113, name=name)
        expected = name, 113, [1000 * thousands + 7] * 2
        until(lambda: scenario.serves("many") == expected, f"{expected}")  # noqa: B023
    assert scenario.server.admin.post("/admin/policies/many/rollback").json()["version"] == "policy_114"
    assert scenario.serves("many") == ("policy_114", 113, [339_007] * 2)
    assert scenario.server.reload("many").json()["version"] == "policy_115"


def test_an_export_is_a_checkpoint_where_checkpoints_are_looked_for(scenario: Scenario) -> None:
    for number, policy in enumerate(("one", "ours")):
        step = 10 + number
        scenario.series.save(step, scenario.folder / policy / "checkpoints")
        scenario.until_it_serves(policy, f"policy_{step}", step)
    scenario.ours.policy.set_number(12)
    scenario.ours._train_step.assign(12)
    scenario.ours.saver.save(scenario.ours.folder / "checkpoints" / "policy_12")  # one of our own saver
    scenario.until_it_serves("ours", "policy_12", 12)


def test_an_export_whose_variables_do_not_fit_is_reported_so(scenario: Scenario) -> None:
    other = policy_saver.PolicySaver(policies.q(), train_step=tf.Variable(9999, dtype=tf.int64))
    other.save(str(scenario.folder / "one" / "checkpoints" / "policy_9999"))
    reason = scenario.refused("one", "policy_9999")
    assert reason.startswith("it is an export, and its variables do not fit the graph that serves: variable ")
    answer = scenario.server.reload("one", checkpoint="policy_9999")
    assert (answer.status_code, reason in answer.json()["detail"]) == (409, True)


@pytest.mark.parametrize("policy", ["one", pytest.param("ours", marks=pytest.mark.only_full)])
def test_an_export_that_is_saved_again_and_again_serves_each_time(scenario: Scenario, policy: str) -> None:
    trainer: NumberTrainer = getattr(scenario, policy)
    first = scenario.serves(policy)
    steps = (202, 203)
    good = {"export": 0, first[0]: first[1]}
    with SteadyLoad(scenario.server.url, policy, good) as load:
        for step in steps:
            good[f"export@{step}"] = step
            load.good = _AnyStep(good)
            scenario.saved_again(trainer, step)
            scenario.until_it_serves(policy, "export", step)
        load.more(20)
        assert load.new_failures() == []
    assert not scenario.described(policy)["stale"]
    for step in (202, first[1]):
        assert scenario.server.admin.post(f"/admin/policies/{policy}/rollback").json()["train_step"] == step
        assert scenario.serves(policy)[1:] == (step, [1000 * step + 7] * 2)
    assert scenario.described(policy)["stale"]
    assert scenario.server.reload(policy).json()["train_step"] == 203
    trainer.publish(204)
    scenario.until_it_serves(policy, "0000000204", 204)


class _AnyStep(dict[str, int]):
    """`export` may have the train step of any save: the action has to show the same one."""

    def __init__(self, good: dict[str, int]) -> None:
        super().__init__(good)
        self._steps = {step for name, step in good.items() if name.startswith("export")}

    def __getitem__(self, name: str) -> Any:
        return _OneOf(self._steps) if name == "export" else super().__getitem__(name)


class _OneOf(frozenset[int]):
    def __ne__(self, step: object) -> bool:
        return step not in self

    __hash__ = frozenset.__hash__


def test_an_export_with_other_specs_stays_stale_and_says_why(scenario: Scenario) -> None:
    before = scenario.serves("many")
    until(lambda: not scenario.described("one")["stale"], "one at rest")
    observation = tf.TensorSpec([3], tf.float32, "observation")
    other = policy_saver.PolicySaver(policies.q(observation), train_step=tf.Variable(999, dtype=tf.int64))
    other.save(str(scenario.one.folder))
    until(lambda: scenario.described("one")["stale_reason"], "a reason")
    assert "other specs" in scenario.described("one")["stale_reason"]
    assert "other specs" in scenario.refused("one", "export")
    assert scenario.described("one")["stale"]
    assert "export" not in scenario.serves("one")[0]
    assert scenario.serves("many") == before
    scenario.one.publish(205)  # it holds nothing up
    scenario.until_it_serves("one", "0000000205", 205)


FOREIGN = {
    "ckpt-200": "tf.train.Checkpoint, such as TF-Agents' common.Checkpointer writes",
    "weights.h5": "a file of Keras",
    "model.keras": "a file of Keras",
    "0000000009.tar": "an archive: unpack it",
    "model.ckpt-5": "tf.train.Checkpoint",
    "train": "tf.train.Checkpoint, such as TF-Agents' common.Checkpointer writes",
    "root": "a trainer's folder; the policies are policies/policy",
    "flat": "its files lie in the folder itself, expected variables/variables.index",
    "keras": "a model of Keras",
    "foreign": "a SavedModel that PolicySaver has not written",
}


def test_what_is_no_checkpoint_is_called_what_it_is(scenario: Scenario) -> None:
    checkpoints = scenario.folder / "ours" / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    weight = tf.Variable([1.0])
    common.Checkpointer(str(checkpoints), max_to_keep=1, weight=weight).save(200)
    common.Checkpointer(str(checkpoints / "train"), max_to_keep=1, weight=weight).save(3)
    network = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
    network.save_weights(str(checkpoints / "weights.h5"))
    (checkpoints / "model.keras").write_bytes(b"")
    with tarfile.open(checkpoints / "0000000009.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("variables/x"), io.BytesIO())
    (checkpoints / "model.ckpt-5.meta").write_bytes(b"")
    shutil.copytree(scenario.folder / "one", checkpoints / "root" / "policies" / "policy")
    tf.train.Checkpoint(weight=weight).write(str(checkpoints / "flat" / "variables"))
    (checkpoints / "keras").mkdir()
    (checkpoints / "keras" / "keras_metadata.pb").write_bytes(b"")
    tf.saved_model.save(tf.train.Checkpoint(weight=weight), str(checkpoints / "foreign"))
    for name, says in FOREIGN.items():
        assert says in scenario.refused("ours", name)
        answer = scenario.server.reload("ours", checkpoint=name)
        assert (answer.status_code, says in answer.json()["detail"]) == (409, True), answer.text
    scenario.ours.publish(301)
    scenario.until_it_serves("ours", "0000000301", 301)
    refused = [line for line in scenario.server.lines if "refused ckpt-200" in line]
    assert len(refused) == 1, "it is logged once"
    for name in os.listdir(checkpoints):
        path = checkpoints / name
        if name.startswith("0000") and path.is_dir():
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_what_cannot_be_read_is_named_and_stops_nothing(scenario: Scenario) -> None:
    checkpoints = scenario.folder / "one" / "checkpoints"
    (checkpoints / "loop").symlink_to("loop")
    (checkpoints / "dangling").symlink_to("nowhere")
    (checkpoints / "upwards").symlink_to("..")
    os.mkfifo(checkpoints / "pipe")
    (checkpoints / "0000009999").write_text("")
    os.mkdir(os.fsencode(checkpoints) + b"/\xff\n")
    (checkpoints / "a b").mkdir()
    says = {
        "loop": "Too many levels of symbolic links",
        "dangling": "a link that leads nowhere",
        "upwards": "a link that leads outside checkpoints",
        "pipe": "a pipe, expected a folder",
        "0000009999": "a file, expected a folder",
        "\\xff\\n": "its name cannot be asked for",
        "a b": "its name cannot be asked for",
    }
    for name, reason in says.items():
        assert reason in scenario.refused("one", name), name
    for step in (401, 402):
        scenario.one.publish(step)
        scenario.until_it_serves("one", f"{step:010d}", step)
    assert "begins again" not in "\n".join(scenario.server.lines)


def test_one_inotify_instance_is_enough(scenario: Scenario) -> None:
    def instances() -> int:
        return sum("inotify" in place for place in processes.descriptors(scenario.server.process.pid))

    until(lambda: instances() == 1, "one that watches")  # it is made anew where a folder could not be watched
    assert {instances() for _ in range(20)} <= {0, 1}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda folder: common.Checkpointer(str(folder), max_to_keep=1, x=tf.Variable(1.0)).save(3),
            "Checkpointer writes",
        ),
        (
            lambda folder: shutil.copytree(Path(__file__).parent, folder / "x"),
            "holds no SavedModel: saved_model.pb is missing",
        ),
    ],
    ids=["common.Checkpointer", "anything"],
)
def test_what_is_no_export_is_called_what_it_is(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "given")
    words = command(str(tmp_path / "given"), "--port", "0")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert done.returncode == 1
    assert says in done.stderr
