from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.errors import SwapRefused, UnusablePolicy
from app.workshop.workshop import Workshop
from saver import PolicySaver
from saver.artifact.probe import probe_inputs
from tests.saver import policies


class Trainer:
    """A policy in training: its export, and checkpoints with weights that are all `value`."""

    def __init__(self, folder: Path, units: int = 3) -> None:
        self.folder = folder
        self.policy = policies.q(units=units)
        self.train_step = tf.Variable(0, dtype=tf.int64)
        self.saver = PolicySaver(self.policy, train_step=self.train_step)
        self.saver.save(folder)

    def publish(self, train_step: int, value: float) -> Path:
        self.train_step.assign(train_step)
        for variable in self.policy.variables():
            variable.assign(tf.ones_like(variable) * value)
        checkpoint = self.folder / "checkpoints" / f"{train_step:010d}"
        self.saver.save_checkpoint(checkpoint)
        return checkpoint


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "policy")


def first_weight(engine) -> float:
    return float(engine.model.model_variables[0].numpy().flat[0])


def test_restored_copy_has_the_weights_and_others_keep_theirs(trainer):
    workshop = Workshop(trainer.folder)
    one, other = workshop.standby(), workshop.standby()
    before = first_weight(other)
    weights = workshop.restore(one, trainer.publish(700, 0.25))
    assert (weights.train_step, dict(weights.metadata)) == (700, {})
    assert (first_weight(one), first_weight(other)) == (0.25, before)
    assert workshop.weights(other).train_step == 0


def test_copy_can_be_restored_into_again_and_again(trainer):
    workshop = Workshop(trainer.folder)
    engine = workshop.standby()
    for step in range(1, 4):
        assert workshop.restore(engine, trainer.publish(step, step / 2)).train_step == step
        assert first_weight(engine) == step / 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda trainer: trainer.publish(1, np.nan), "NaN"),
        (lambda trainer: Trainer(trainer.folder.parent / "other", units=5).publish(1, 1.0), "the policy has"),
    ],
    ids=["NaN", "another architecture"],
)
def test_refused_checkpoint_does_not_touch_the_copy(trainer, spoil, says):
    workshop = Workshop(trainer.folder)
    engine = workshop.standby()
    before = [variable.numpy() for variable in engine.model.model_variables]
    with pytest.raises(SwapRefused, match=says):
        workshop.restore(engine, spoil(trainer))
    for variable, value in zip(engine.model.model_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_replaced_graph_is_stale_and_opens_anew_where_its_specs_are_equal(trainer):
    workshop = Workshop(trainer.folder)
    assert not workshop.stale()
    Trainer(trainer.folder, units=5)
    assert workshop.stale()
    fresh = workshop.reopened()
    assert not fresh.stale()
    assert fresh.digest != workshop.digest
    assert fresh.weights(fresh.standby()).train_step == 0


def test_graph_with_other_specs_is_refused(trainer):
    workshop = Workshop(trainer.folder)
    PolicySaver(policies.q_lstm()).save(trainer.folder)
    with pytest.raises(SwapRefused):
        workshop.reopened()


def test_broken_graph_is_refused(trainer):
    workshop = Workshop(trainer.folder)
    (trainer.folder / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(SwapRefused, match="is no complete export"):
        workshop.reopened()


def test_folder_without_a_policy_is_unusable(tmp_path):
    with pytest.raises(UnusablePolicy):
        Workshop(tmp_path)


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
        (-1.0, "action/grip is -1 to -1, outside its bounds on probe inputs"),
        (3.0, "action/grip is 3 to 3, outside its bounds on probe inputs"),
        (np.nan, "action/move is not finite on probe inputs"),
    ],
)
def test_policy_that_answers_what_its_spec_excludes_may_not_serve(tmp_path, weight, says):
    policy = Astray(clip=False)
    policy._weight.assign(weight)
    PolicySaver(policy).save(tmp_path / "p")
    workshop = Workshop(tmp_path / "p")
    if says is None:
        workshop.weights(workshop.standby())
        return
    with pytest.raises(SwapRefused, match=says):
        workshop.weights(workshop.standby())


def test_probe_inputs_are_inside_the_bounds_and_begin_an_episode(saved):
    workshop = Workshop(saved.folder("nested"))
    inputs = probe_inputs(workshop.spec, workshop.standby().initial_state(4), rows=4)
    assert inputs["0/step_type"].tolist() == [0] * 4
    assert inputs["0/discount"].tolist() == [1.0] * 4
    assert inputs["0/observation/camera"].dtype == np.uint8
    right = inputs["0/observation/joints/1"]
    assert ((right >= [0, -5]) & (right <= [3, 5])).all()
    assert (np.abs(inputs["0/observation/speed"]) <= 1).all()
    assert inputs["1/trace/0"].shape == (4, 2)
