import json

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.specs import tensor_spec

from saver.artifact import Leaf, PolicySpec, TensorInfo, leaves, read_policy_manifest
from saver.specs import PolicySpecs, spec_of
from tests.support.saver_policies import SAVERS, Saved

HIGH = [float(np.float32(x)) for x in (4.8, 9.0, 0.4, 9.0)]
LOW = [-x for x in HIGH]


def spec(saved: Saved, name: str) -> PolicySpec:
    manifest = read_policy_manifest(saved.folder(name))
    assert manifest is not None
    return manifest.spec


def time_step_leaves(prefix: str = "0/") -> dict:
    return {
        "step_type": Leaf(f"{prefix}step_type", "int32", ()),
        "reward": Leaf(f"{prefix}reward", "float32", ()),
        "discount": Leaf(f"{prefix}discount", "float32", (), 0.0, 1.0),
    }


OBSERVATION = Leaf("0/observation", "float32", (4,), LOW, HIGH)
ACTION = Leaf("action", "int64", (), 0, 1)


def lstm_state(prefix: str) -> tuple[Leaf, Leaf]:
    return Leaf(f"{prefix}0", "float32", (2,)), Leaf(f"{prefix}1", "float32", (2,))


def test_stateless_policy(saved: Saved):
    found = spec(saved, "q")
    assert found.inputs == time_step_leaves() | {"observation": OBSERVATION}
    assert (found.action, found.state, found.info, found.initial_state) == (ACTION, (), (), ())
    assert (found.batch_size, found.takes_time_step) == (None, True)
    action = found.signatures["action"]
    assert action.inputs["0/observation"] == TensorInfo("float32", (None, 4))
    assert action.outputs == {"action": TensorInfo("int64", (None,))}
    assert set(found.signatures) == {"action", "get_initial_state", "get_train_step", "get_metadata"}
    assert found.signatures["get_initial_state"].inputs == {"batch_size": TensorInfo("int32", ())}


def test_state_has_the_names_of_input_output_and_beginning(saved: Saved):
    found = spec(saved, "recurrent")
    assert found.inputs == time_step_leaves() | {"observation": OBSERVATION, "policy_state": lstm_state("1/")}
    assert found.state == lstm_state("state/")
    assert found.initial_state == lstm_state("")


def test_nested_policy(saved: Saved):
    found = spec(saved, "nested")
    assert isinstance(found.inputs, dict)
    assert found.inputs["observation"] == {
        "camera": Leaf("0/observation/camera", "uint8", (2, 2), 0, 255),
        "speed": Leaf("0/observation/speed", "float32", (), -1.0, 1.0),
        "joints": (
            Leaf("0/observation/joints/0", "float32", (2,)),
            Leaf("0/observation/joints/1", "int32", (2,), [0, -5], [3, 5]),
        ),
    }
    assert found.inputs["policy_state"] == {
        "count": Leaf("1/count", "int32", ()),
        "trace": (Leaf("1/trace/0", "float32", (2,)),),
    }
    assert found.action == {
        "move": Leaf("action/move", "float32", (2,), [-1.0, -2.0], [1.0, 2.0]),
        "grip": Leaf("action/grip", "int32", (), 0, 2),
    }
    assert found.state == {
        "count": Leaf("state/count", "int32", ()),
        "trace": (Leaf("state/trace/0", "float32", (2,)),),
    }
    assert found.info == {"speed_seen": Leaf("info/speed_seen", "float32", ())}


def test_export_without_nest_paths_has_the_names_of_its_specs(saved: Saved):
    found = spec(saved, "no nest paths")
    names = [leaf.name for _, leaf in leaves(found.inputs)]
    assert names == ["step_type", "reward", "discount", "camera", "speed", "left", "right", "count", "trace"]
    assert [leaf.name for _, leaf in leaves(found.action)] == ["move", "grip"]
    assert [leaf.name for _, leaf in leaves(found.state)] == ["count", "trace"]
    assert [leaf.name for _, leaf in leaves(found.info)] == ["speed_seen"]
    assert [leaf.name for _, leaf in leaves(found.initial_state)] == ["count", "trace"]


def test_fixed_batch_is_known_and_is_no_part_of_the_shapes(saved: Saved):
    found = spec(saved, "fixed batch, recurrent")
    assert found.batch_size == 2
    assert isinstance(found.inputs, dict)
    assert found.inputs["observation"] == OBSERVATION
    assert found.signatures["action"].inputs["0/observation"] == TensorInfo("float32", (2, 4))
    assert found.signatures["get_initial_state"].inputs == {}
    assert found.state == lstm_state("state/")


def test_custom_inputs_take_the_place_of_the_time_step(saved: Saved):
    found = spec(saved, "input_fn")
    assert not found.takes_time_step
    bound = float(np.float32(4.8))
    assert found.inputs == {
        "position": Leaf("position", "float32", (2,), -bound, bound),
        "speed": Leaf("speed", "float32", (2,)),
    }
    assert spec(saved, "input_fn, one tensor").inputs == Leaf("sensors", "float32", (4,))


@pytest.mark.parametrize("name", SAVERS)
def test_every_tensor_of_the_signatures_has_its_place_in_the_nests(saved: Saved, name):
    found = spec(saved, name)
    action = found.signatures["action"]

    def names(*nests) -> list[str]:
        return sorted(leaf.name for nest in nests for _, leaf in leaves(nest))

    assert names(found.inputs) == sorted(action.inputs)
    assert names(found.action, found.state, found.info) == sorted(action.outputs)
    assert names(found.initial_state) == sorted(found.signatures["get_initial_state"].outputs)
    for nest, tensors in ((found.inputs, action.inputs), (found.action, action.outputs)):
        for _, leaf in leaves(nest):
            assert tensors[leaf.name] == TensorInfo(leaf.dtype, (found.batch_size, *leaf.shape))


def test_bounds_that_are_nan_are_none():
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def function(x):
        return {"action": x}

    functions = dict.fromkeys(("action", "get_initial_state"), function.get_concrete_function())
    bounded = tensor_spec.BoundedTensorSpec([2], tf.float32, [np.nan, 0.0], np.nan, "x")
    specs = PolicySpecs(time_step=(), policy_state=(), action=bounded, info=(), custom_input=bounded)
    found = spec_of(functions, specs, None)
    assert found.inputs == Leaf("x", "float32", (2,), [-np.inf, 0.0], np.inf)
    assert PolicySpec.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_tensor_that_is_in_no_signature_is_named():
    def function(name: str):
        signature = [tf.TensorSpec([None, 4], tf.float32, n) for n in (name, "b")]
        return tf.function(lambda a, b: {"action": a, "info": b}, input_signature=signature).get_concrete_function()

    functions = {"action": function("a"), "get_initial_state": function("a")}
    four = tf.TensorSpec([4], tf.float32)
    specs = PolicySpecs(time_step=(), policy_state=(), action=four, info=four, custom_input={"x": four})
    with pytest.raises(ValueError, match=r"no tensor '0/x' or None in the signature, it has \['a', 'b'\]"):
        spec_of(functions, specs, None)
