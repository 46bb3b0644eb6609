"""What the arguments and properties of PolicySaver promise. Its methods: test_options.py, test_use.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

from saver import PolicySaver
from saver.artifact import leaves, read_checkpoint_manifest, read_policy_manifest
from saver.verify import verify_folder
from tests.support import saver_policies as policies
from tests.support.saver_policies import Saved

NAMES = {part: (f"{part}_a", f"{part}_b") for part in ("observation", "state", "action", "info")}


class Adder(tf_policy.TFPolicy):
    """Two numbers in each part, under given names: action = observation + state + weight, and the state counts."""

    def __init__(self, **names: tuple[str | None, str | None]) -> None:
        pairs = {part: tuple(tf.TensorSpec((), tf.float32, n) for n in pair) for part, pair in (NAMES | names).items()}
        super().__init__(
            time_step.time_step_spec(pairs["observation"]), pairs["action"], pairs["state"], pairs["info"], clip=False
        )
        self._weight = tf.Variable(100.0)

    def _variables(self) -> list[tf.Variable]:
        return [self._weight]

    def _action(self, time_step: Any, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        action = tuple(x + n + self._weight for x, n in zip(time_step.observation, policy_state, strict=True))
        return policy_step.PolicyStep(action, tuple(n + 1 for n in policy_state), time_step.observation)

    def _distribution(self, time_step: Any, policy_state: Any) -> policy_step.PolicyStep:
        raise NotImplementedError


def cartpoles(rows: int) -> time_step.TimeStep:
    return time_step.restart(tf.random.stateless_uniform((rows, 4), (1, 2), -0.4, 0.4), rows)


def tensors(function: Any) -> dict[str, tuple[str, list[int | None]]]:
    """The inputs of a loaded signature: name → dtype and shape."""
    return {s.name: (s.dtype.name, s.shape.as_list()) for s in function.structured_input_signature[1].values()}


def outputs(function: Any) -> dict[str, tuple[str, list[int | None]]]:
    return {name: (s.dtype.name, s.shape.as_list()) for name, s in function.structured_outputs.items()}


def loaded(saver: PolicySaver, folder: Path) -> Any:
    saver.save(folder)
    return tf.saved_model.load(str(folder))


# policy, batch_size


@pytest.mark.parametrize("policy", [None, "policy", 3, Adder, tf.Module()])
def test_policy_that_is_none_is_refused(policy):
    with pytest.raises(TypeError, match="policy is not a TFPolicy"):
        PolicySaver(policy)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "2", False, True, np.int64(2), [2]])
def test_batch_size_that_is_no_positive_integer_is_refused(batch_size):
    with pytest.raises(ValueError, match="Expected batch_size == None or python int > 0"):
        PolicySaver(Adder(), batch_size)


def test_unknown_batch_size_is_open_in_every_signature_and_takes_any_rows(saved: Saved):
    model = tf.saved_model.load(str(saved.folder("recurrent")))
    action = model.signatures["action"]
    assert {shape[0] for _, shape in [*tensors(action).values(), *outputs(action).values()]} == {None}
    assert tensors(model.signatures["get_initial_state"]) == {"batch_size": ("int32", [])}
    for rows in (1, 5):
        assert model.action(cartpoles(rows), model.get_initial_state(batch_size=rows)).action.shape == (rows,)


def test_fixed_batch_size_is_in_every_signature_and_other_sizes_are_refused(saved: Saved):
    model = tf.saved_model.load(str(saved.folder("fixed batch, recurrent")))
    action = model.signatures["action"]
    assert {shape[0] for _, shape in [*tensors(action).values(), *outputs(action).values()]} == {2}
    assert tensors(model.signatures["get_initial_state"]) == {}
    state = model.get_initial_state()
    assert [part.shape for part in state] == [(2, 2), (2, 2)]
    assert model.action(cartpoles(2), state).action.shape == (2,)
    with pytest.raises(ValueError, match="Could not find matching concrete function"):
        model.action(cartpoles(3), state)
    flat = {f"0/{name}": value for name, value in cartpoles(3)._asdict().items()}
    with pytest.raises(tf.errors.InvalidArgumentError):
        action(**flat, **{"1/0": state[0], "1/1": state[1]})


# use_nest_path_signatures


def test_nest_paths_are_the_names_whatever_the_specs_are_called(tmp_path):
    policy = Adder(observation=("x", "x"), state=(None, None), action=("x", None), info=("x", "x"))
    model = loaded(PolicySaver(policy), tmp_path / "policy")
    assert set(tensors(model.signatures["action"])) == {
        *("0/step_type", "0/reward", "0/discount", "0/observation/0", "0/observation/1", "1/0", "1/1")
    }
    expected = {"action/0", "action/1", "state/0", "state/1", "info/0", "info/1"}
    assert set(outputs(model.signatures["action"])) == expected
    assert set(outputs(model.signatures["get_initial_state"])) == {"0", "1"}


def test_without_nest_paths_the_names_are_those_of_the_specs(tmp_path):
    model = loaded(PolicySaver(Adder(), use_nest_path_signatures=False), tmp_path / "policy")
    steps = {"step_type", "reward", "discount"}
    assert set(tensors(model.signatures["action"])) == steps | {*NAMES["observation"], *NAMES["state"]}
    assert set(outputs(model.signatures["action"])) == {*NAMES["action"], *NAMES["state"], *NAMES["info"]}
    assert set(outputs(model.signatures["get_initial_state"])) == {*NAMES["state"]}


@pytest.mark.parametrize(
    "names",
    [
        *({part: pair} for part in NAMES for pair in (("a", None), ("a", "a"))),
        {"observation": ("reward", "b")},
        {"observation": ("a", "b"), "state": ("b", "c")},
        {"action": ("a", "b"), "state": ("b", "c")},
        {"action": ("a", "b"), "info": ("b", "c")},
    ],
    ids=str,
)
def test_without_nest_paths_missing_and_colliding_names_are_refused(names):
    with pytest.raises(ValueError, match="missing name or a name collision"):
        PolicySaver(Adder(**names), use_nest_path_signatures=False)


# seed


def test_seed_repeats_the_actions_after_every_load(tmp_path):
    def drawn(name: str) -> list[bytes]:
        model = tf.saved_model.load(str(tmp_path / name))
        return [model.action(cartpoles(64)).action.numpy().tobytes() for _ in range(2)]

    for name, seed in (("one", 1), ("two", 2), ("none", None)):
        PolicySaver(policies.random(), seed=seed).save(tmp_path / name)
    assert drawn("one") == drawn("one")
    assert drawn("one")[0] != drawn("one")[1]
    assert drawn("one") != drawn("two")
    assert drawn("none") != drawn("none")


# train_step


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_train_step_is_the_one_at_the_time_of_each_save(tmp_path, dtype):
    step = tf.Variable(7, dtype=dtype)
    saver = PolicySaver(Adder(), train_step=step)
    step.assign(8)
    assert saver.get_train_step() == 8
    model = loaded(saver, tmp_path / "policy")
    step.assign(9)
    assert saver.get_train_step() == 9
    saver.save_checkpoint(tmp_path / "checkpoint")
    step.assign(10)

    assert model.get_train_step().numpy() == 8
    assert model.get_train_step().dtype == dtype
    assert {name: int(value) for name, value in model.signatures["get_train_step"]().items()} == {dtype.name: 8}
    manifest = read_checkpoint_manifest(tmp_path / "checkpoint")
    assert manifest is not None
    assert manifest.train_step == 9
    tf.train.Checkpoint(policy=model).read(str(tmp_path / "checkpoint/variables/variables")).assert_consumed()
    assert model.get_train_step().numpy() == 9


def test_train_step_that_is_not_given_is_minus_one(tmp_path):
    saver = PolicySaver(Adder())
    assert saver.get_train_step() == -1
    model = loaded(saver, tmp_path / "policy")
    assert (model.get_train_step().numpy(), model.get_train_step().dtype) == (-1, tf.int64)
    saver.save_checkpoint(tmp_path / "checkpoint")
    manifest = read_checkpoint_manifest(tmp_path / "checkpoint")
    assert manifest is not None
    assert manifest.train_step == -1


@pytest.mark.parametrize("step", [0, 7, np.int64(7), tf.constant(7), "7"])
def test_train_step_that_is_no_variable_is_refused(step):
    with pytest.raises(ValueError, match="train_step must be a TensorFlow variable"):
        PolicySaver(Adder(), train_step=step)


# input_fn_and_spec

PAIR = tf.TensorSpec((2,), tf.float32, "pair")


def steps_of(pair: tf.Tensor) -> time_step.TimeStep:
    zero = tf.zeros_like(pair[:, 0])
    middle = tf.fill(tf.shape(zero), time_step.StepType.MID)  # at a first step, policies begin with a state anew
    return time_step.TimeStep(middle, zero, zero, (pair[:, 0], pair[:, 1]))


def test_input_function_makes_the_time_step(saved: Saved):
    live = saved.saver("input_fn")
    model = tf.saved_model.load(str(saved.folder("input_fn")))
    spec = policies.input_fn_and_spec()[1]
    assert live.action_input_spec == (spec,)
    assert set(tensors(model.signatures["action"])) == {"position", "speed"}
    observation = cartpoles(3).observation
    sensors = {"position": observation[:, :2], "speed": observation[:, 2:]}
    np.testing.assert_array_equal(
        model.distribution(sensors).action.logits_parameter(),
        live._raw_policy.distribution(cartpoles(3)).action.logits_parameter(),
    )
    assert model.action(sensors).action.shape == (3,)


def test_input_function_makes_the_policy_state_too(tmp_path):
    spec = {"pair": PAIR, "memory": tf.TensorSpec((2,), tf.float32, "memory")}

    def to_action_input(example: Any) -> Any:
        return steps_of(example["pair"]), (example["memory"][:, 0], example["memory"][:, 1])

    model = loaded(PolicySaver(Adder(), input_fn_and_spec=(to_action_input, spec)), tmp_path / "policy")
    example = {"pair": tf.constant([[1.0, 2.0]]), "memory": tf.constant([[10.0, 20.0]])}
    step = model.action(example)
    assert [float(part[0]) for part in step.action] == [111.0, 122.0]
    assert [float(part[0]) for part in step.state] == [11.0, 21.0]
    flat = model.signatures["action"](**example)
    assert {name: float(value[0]) for name, value in flat.items() if "info" not in name} == {
        "action/0": 111.0,
        "action/1": 122.0,
        "state/0": 11.0,
        "state/1": 21.0,
    }


@pytest.mark.parametrize(
    ("names", "in_signature"),
    [
        ((None, None), ("input_list_0", "input_list_1")),
        (("sensor", None), ("sensor", "input_list_1")),
        (("sensor", "sensor"), ("sensor", "sensor_1")),
    ],
)
def test_custom_inputs_without_good_names_have_those_that_tensorflow_gives(tmp_path, names, in_signature):
    one, two = names
    spec = (tf.TensorSpec((2,), tf.float32, one), tensor_spec.BoundedTensorSpec((2,), tf.float32, -1.0, 1.0, two))

    def to_action_input(example: Any) -> Any:
        return steps_of(example[0]), (example[1][:, 0], example[1][:, 1])

    model = loaded(PolicySaver(Adder(), input_fn_and_spec=(to_action_input, spec)), tmp_path / "policy")
    assert set(tensors(model.signatures["action"])) == set(in_signature)
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    expected = [(in_signature[0], None), (in_signature[1], 1.0)]
    assert [(leaf.name, leaf.maximum) for _, leaf in leaves(manifest.spec.inputs)] == expected


STATE = (tf.zeros([1]), tf.zeros([1]))


@pytest.mark.parametrize(
    "function",
    [
        lambda pair: steps_of(pair),
        lambda pair: None,
        lambda pair: (steps_of(pair), ()),
        lambda pair: (steps_of(pair), STATE, STATE),
        lambda pair: (steps_of(pair)._replace(reward=tf.zeros([1], tf.int32)), STATE),
        lambda pair: (steps_of(pair), (tf.zeros([1], tf.int32), tf.zeros([1]))),
    ],
    ids=["no pair", "nothing", "no state", "three", "dtype", "state's dtype"],
)
def test_wrong_result_of_the_input_function_is_refused(function):
    with pytest.raises((ValueError, TypeError), match=r"incompatible with spec|same nested structure"):
        PolicySaver(Adder(), input_fn_and_spec=(function, PAIR))


def test_input_function_that_makes_another_shape_is_refused():
    to_action_input, spec = policies.one_tensor()

    def shorter(example: tf.Tensor) -> Any:
        steps, state = to_action_input(example)
        return steps._replace(observation=steps.observation[:, :3]), state

    with pytest.raises(ValueError, match="incompatible with spec"):
        PolicySaver(policies.q(), input_fn_and_spec=(shorter, spec))


# metadata


def test_metadata_has_the_values_at_the_time_of_each_save(tmp_path):
    metadata = {"episodes": tf.Variable(1, dtype=tf.int64), "name": tf.Variable("a"), "score": tf.Variable([1.5, 2.5])}
    saver = PolicySaver(Adder(), metadata=metadata)
    metadata["episodes"].assign(2)
    expected = {"episodes": 2, "name": b"a", "score": [1.5, 2.5]}
    assert {name: np.asarray(value).tolist() for name, value in saver.get_metadata().items()} == expected
    model = loaded(saver, tmp_path / "policy")
    metadata["episodes"].assign(3)
    assert saver.get_metadata()["episodes"] == 3
    assert {name: np.asarray(value).tolist() for name, value in model.get_metadata().items()} == expected
    assert set(model.signatures["get_metadata"]()) == {"int64", "string", "float32"}


def test_metadata_that_is_not_given_is_empty(tmp_path):
    saver = PolicySaver(Adder())
    assert saver.get_metadata() == {}
    assert loaded(saver, tmp_path / "policy").get_metadata() == {}


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": 1},
        {"a": tf.constant(1)},
        {"a": {"b": tf.Variable(1)}},
        {"good": tf.Variable(1), "a": None},
        {1: tf.Variable(1)},
        [tf.Variable(1)],
        (),
        tf.Variable(1),
        tf.Variable([0, 0]),
        "metadata",
        0,
    ],
    ids=str,
)
def test_metadata_that_is_no_dictionary_of_variables_is_refused(metadata):
    with pytest.raises(TypeError, match="metadata"):
        PolicySaver(Adder(), metadata=metadata)


# Properties


def names(nest: Any) -> Any:
    return tf.nest.map_structure(lambda spec: spec.name, nest)


def test_specs_are_named_by_nest_paths():
    policy = Adder()
    saver = PolicySaver(policy)
    steps, state = saver.action_input_spec
    assert names(steps) == time_step.TimeStep(
        "0/step_type", "0/reward", "0/discount", ("0/observation/0", "0/observation/1")
    )
    assert names(state) == ("1/0", "1/1")
    assert names(saver.policy_state_spec) == ("0", "1")
    assert names(saver.policy_step_spec) == policy_step.PolicyStep(
        ("action/0", "action/1"), ("state/0", "state/1"), ("info/0", "info/1")
    )
    assert tf.nest.map_structure(lambda s: (s.dtype, s.shape), saver.policy_step_spec) == tf.nest.map_structure(
        lambda s: (s.dtype, s.shape), policy.policy_step_spec
    )


def test_specs_without_nest_paths_are_those_of_the_policy():
    policy = Adder()
    saver = PolicySaver(policy, use_nest_path_signatures=False)
    assert saver.action_input_spec == (policy.time_step_spec, policy.policy_state_spec)
    assert saver.policy_state_spec == policy.policy_state_spec
    assert saver.policy_step_spec == policy.policy_step_spec


def test_signatures_are_the_functions_that_the_export_will_have(tmp_path):
    saver = PolicySaver(Adder())
    assert set(saver.signatures) == {"action", "get_initial_state", "get_train_step", "get_metadata"}
    zero, one = tf.zeros([1]), tf.ones([1])
    flat = saver.signatures["action"](tf.ones([1], tf.int32), zero, one, zero, one, one, one)
    expected = {"action/0": 101.0, "action/1": 102.0, "state/0": 2.0, "state/1": 2.0, "info/0": 0.0, "info/1": 1.0}
    assert {name: float(value[0]) for name, value in flat.items()} == expected
    assert set(loaded(saver, tmp_path / "policy").signatures) == set(saver.signatures)


# signatures


@pytest.mark.parametrize(
    ("answer", "gives"),
    [
        (lambda x: {"y": x + 1}, ["y"]),
        (lambda x: x + 1, ["output_0"]),
        (lambda x: [x, x + 1], ["output_0", "output_1"]),
    ],
    ids=["named", "one tensor", "a list"],
)
@pytest.mark.parametrize("is_concrete", [False, True])
def test_signatures_that_a_program_adds_are_saved_as_they_are(
    tmp_path: Path, answer: Any, gives: list[str], is_concrete: bool
) -> None:
    saver = PolicySaver(Adder())
    function = tf.function(answer, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    saver.signatures["extra"] = function.get_concrete_function() if is_concrete else function
    model = loaded(saver, tmp_path / "policy")
    found = model.signatures["extra"](x=tf.constant([2.0]))
    assert sorted(found) == gives
    assert found[gives[-1]].numpy().tolist() == [3.0]
    manifest = read_policy_manifest(tmp_path / "policy")
    assert manifest is not None
    assert "extra" not in manifest.spec.signatures
    assert {finding.result for finding in verify_folder(tmp_path / "policy")} == {"ok", "skipped"}


def test_a_signature_of_the_policy_may_be_one_of_the_programs(tmp_path: Path) -> None:
    saver = PolicySaver(Adder())
    saver.signatures["action"] = saver.signatures["action"].get_concrete_function()
    saver.signatures["get_metadata"] = tf.function(lambda: {"run": tf.constant(7)}, input_signature=[])
    model = loaded(saver, tmp_path / "policy")
    assert model.signatures["get_metadata"]()["run"].numpy() == 7
    assert {finding.result for finding in verify_folder(tmp_path / "policy")} == {"ok", "skipped"}
