"""Ordinary requests of many specs; and what the typed decoder and the validator make of a body."""

import random
from typing import Any

import msgspec
import numpy as np
import orjson

from app.inputs.options import read_options
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from saver.artifact import Leaf, PolicySpec
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

FLOATS = Leaf("0/observation/x", "float32", (4,))


ROW = [0.1, -0.2, 0.3, -0.4]


SPECS = {
    "flat": policy_spec(),
    "nested": policy_spec(NESTED),
    "recurrent": policy_spec(state=LSTM_STATE),
    "cart": policy_spec(Leaf("0/observation", "float32", (4,), [-4.8, -3e38, -0.4, -3e38], [4.8, 3e38, 0.4, 3e38])),
    "number": policy_spec(Leaf("0/observation", "int64", (), -5, 5)),
    "switches": policy_spec(Leaf("0/observation", "bool", (2, 3))),
    "image": policy_spec(Leaf("0/observation", "uint8", (4, 4, 2), 0, 255)),
    "half": policy_spec(Leaf("0/observation", "float16", (3,))),
    "double": policy_spec(Leaf("0/observation", "float64", (3,), -1.0, 1.0)),
    "custom": custom_spec({"pos x": Leaf("pos x", "float32", (2,)), "a/b": Leaf("a/b", "int8", ())}),
    "twins": custom_spec({"a b": Leaf("a b", "float32", ()), "a_b": Leaf("a_b", "float32", ())}),
}


def decoded(spec: PolicySpec, body: bytes, rows_limit: int = 100) -> Any:
    return TypedDecoder(spec, rows_limit=rows_limit).read(body)


def validated(spec: PolicySpec, body: bytes) -> Any:
    fields = orjson.loads(body)
    options = read_options(fields.pop("options", {}))
    return InputValidator(spec, rows_limit=100, strict_bounds=False).read(fields), options


def check_alike(found: Any, expected: Any) -> None:
    (inputs, options), (wanted, wanted_options) = found, expected
    assert options == wanted_options
    assert msgspec.structs.astuple(inputs)[1:] == msgspec.structs.astuple(wanted)[1:]
    assert inputs.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert inputs.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(inputs.arrays[name], array)


def value_of(nest: Any, rows: int | None, draw: random.Random) -> Any:
    if isinstance(nest, dict):
        return {key: value_of(child, rows, draw) for key, child in nest.items()}
    if isinstance(nest, tuple):
        return [value_of(child, rows, draw) for child in nest]
    shape = nest.shape if rows is None else (rows, *nest.shape)
    low = 0 if nest.minimum is None or isinstance(nest.minimum, list) else nest.minimum
    high = 1 if nest.maximum is None or isinstance(nest.maximum, list) else nest.maximum

    def item() -> Any:
        if nest.dtype == "bool":
            return draw.random() < 0.5
        return draw.randint(low, high) if nest.is_integer else draw.choice([draw.uniform(low, high) / 3, 0, 1e-30])

    def filled(sizes: tuple[int, ...]) -> Any:
        return [filled(sizes[1:]) for _ in range(sizes[0])] if sizes else item()

    return filled(shape)


def bodies(spec: PolicySpec, draw: random.Random) -> Any:
    """An ordinary request: with or without what may be left out."""
    rows = draw.choice([None, 1, 2, 7, 30])
    needed = [name for name in spec.inputs if not spec.takes_time_step or name == "observation"]
    optional = [name for name in spec.inputs if name not in needed and name != "step_type" and draw.random() < 0.4]
    body = {name: value_of(spec.inputs[name], rows, draw) for name in (*needed, *optional)}
    if spec.takes_time_step and draw.random() < 0.4:
        body["step_type"] = draw.randint(0, 2) if rows is None else [draw.randint(0, 2) for _ in range(rows)]
    if draw.random() < 0.4:
        body["options"] = {"seed": draw.randint(0, 2**63 - 1), "mode": "greedy", "timeout_ms": 50}
    return body
