"""Policy specs as plain data, for tests that need no TensorFlow."""

from dataclasses import replace
from typing import Any

from saver.artifact import Leaf, Nest, PolicySpec

FLOATS_4 = Leaf("0/observation", "float32", (4,))


def policy_spec(observation: Nest = FLOATS_4, state: Nest = (), **more: Any) -> PolicySpec:
    """A policy that takes time steps. `state` has the names of the inputs: 1/0, 1/1, …"""
    inputs: dict[str, Nest] = {
        "step_type": Leaf("0/step_type", "int32", ()),
        "reward": Leaf("0/reward", "float32", ()),
        "discount": Leaf("0/discount", "float32", (), 0.0, 1.0),
        "observation": observation,
    }
    if state != ():
        inputs["policy_state"] = state
    spec = PolicySpec(
        inputs=inputs,
        action=Leaf("action", "int64", (), 0, 1),
        state=renamed(state, "1/", "state/"),
        info=(),
        initial_state=renamed(state, "1/", ""),
        batch_size=None,
        takes_time_step=True,
        signatures={},
    )
    return replace(spec, **more)


def custom_spec(inputs: Nest, state: Nest = ()) -> PolicySpec:
    """A policy exported with `input_fn_and_spec`."""
    return policy_spec(state=state, inputs=inputs, takes_time_step=False)


def renamed(nest: Nest, old: str, new: str) -> Nest:
    """The same nest with the names that the same tensors have elsewhere in a signature."""
    if isinstance(nest, Leaf):
        return replace(nest, name=new + nest.name.removeprefix(old))
    if isinstance(nest, dict):
        return {key: renamed(child, old, new) for key, child in nest.items()}
    return tuple(renamed(child, old, new) for child in nest)


NESTED = {
    "camera": Leaf("0/observation/camera", "uint8", (2, 2), 0, 255),
    "speed": Leaf("0/observation/speed", "float32", (), -1.0, 1.0),
    "joints": (
        Leaf("0/observation/joints/0", "float32", (2,)),
        Leaf("0/observation/joints/1", "int32", (), 0, 3),
    ),
}
LSTM_STATE = (Leaf("1/0", "float32", (3,)), Leaf("1/1", "float32", (3,)))
