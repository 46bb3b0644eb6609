"""The OpenAPI document of policies that are only described."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from app.api.openapi.document import document
from app.inference.service import Policy
from app.inputs.validate import InputValidator
from saver.artifact import Leaf, Noise, PolicySpec, ServingInfo
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

ALL_DTYPES = {
    dtype: Leaf(f"0/observation/{dtype}", dtype, shape)
    for dtype, shape in {
        "bool": (),
        "string": (2,),
        "int8": (),
        "uint64": (),
        "float16": (3,),
        "bfloat16": (),
        "float64": (2, 2),
    }.items()
}


BOUNDED = {
    "far": Leaf("0/observation/far", "float32", (2,), 5.0, 6.0),
    "each": Leaf("0/observation/each", "int32", (2,), [3, -9], [4, -7]),
    "below": Leaf("0/observation/below", "int64", (), maximum=-1),
    "huge": Leaf("0/observation/huge", "uint64", (), 2**63, 2**64 - 1),
    "free": Leaf("0/observation/free", "float32", (1,), float("-inf"), float("inf")),
}


SPECS = {
    "flat": policy_spec(),
    "nested": policy_spec(NESTED),
    "recurrent": policy_spec(state=LSTM_STATE),
    "unknown sizes": policy_spec(Leaf("0/observation", "float32", (None, 2))),
    "every dtype": policy_spec(ALL_DTYPES),
    "bounded": policy_spec(BOUNDED),
    "image": policy_spec(Leaf("0/observation", "uint8", (84, 84, 4), 0, 255)),
    "list": policy_spec((Leaf("0/observation/0", "float32", ()), Leaf("0/observation/1", "int32", (2,)))),
    "nested action": policy_spec(
        action={"move": Leaf("action/move", "float32", (2,)), "grip": (Leaf("action/grip/0", "int32", (), 0, 1),)},
        info={"value": Leaf("info/value", "float32", ())},
    ),
    "custom": custom_spec({"a": Leaf("a", "float32", (2,)), "b": (Leaf("b", "int32", ()),)}),
    "custom leaf": custom_spec(Leaf("sensors", "float32", (2,))),
    "custom tuple": custom_spec((Leaf("0/0", "float32", ()), Leaf("0/1", "int32", ()))),
}


NOTHING = ServingInfo({}, {}, Noise(0, 0), {"distribution": "it has none"})


ROWS = 8


def policy(spec: PolicySpec, name: str = "p", **more: Any) -> Policy:
    """A policy with the parts that the document is made from."""
    parts: dict[str, Any] = dict.fromkeys(Policy.__dataclass_fields__)
    parts |= {"name": name, "spec": spec, "serving": NOTHING, "reader": InputValidator(spec, rows_limit=ROWS)}
    return Policy(**parts | more)


def whole(*policies: Policy) -> dict[str, Any]:
    """The document; through JSON and back, as a client gets it."""
    return json.loads(json.dumps(document({"openapi": "3.1.0", "paths": {}}, policies), allow_nan=False))


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})
