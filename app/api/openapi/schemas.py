"""A policy's spec → JSON Schemas of its requests and answers: a generated client knows every field and shape."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from app.api.openapi.experience import experience_schema
from app.api.openapi.nests import NON_FINITE, ItemOf, Schema, a_list, an_object, answered, sent, value_or_batch
from app.api.openapi.sessions import session_schemas
from app.api.routes.experience import EXPERIENCE
from app.inference.policy import Policy
from app.inputs.names import DEFAULTED, MOST_NUMBERS_SHOWN, example_of, request_name, top_level
from app.wire.limits import MOST_ANSWER_NUMBERS
from saver.artifact import Leaf, Nest, leaves, pack


def policy_schemas(policy: Policy) -> dict[str, Schema]:
    """Returns the JSON Schemas of a policy's requests and answers, by name."""
    spec = policy.spec
    version = {"version": {"type": "string"}, "train_step": {"type": "integer"}}
    answer: dict[str, Any] = {}
    for key, nest in (("policy_state", spec.state), ("info", spec.info)):
        if any(True for _ in leaves(nest)):
            answer[key] = value_or_batch(nest, answered)
    request, action = _request(policy), _action_answer(policy, answer | version)
    return {
        "request": request,
        "action.answer": action,
        **(session_schemas(request, action, policy.reader.rows_limit) if spec.takes_time_step else {}),
        **({EXPERIENCE: experience_schema(policy)} if spec.takes_time_step else {}),
        "distribution.answer": {
            "type": "object",
            "properties": {"distribution": _distributions(policy), **answer, **version},
            "required": ["distribution", *version],
        },
        "get_initial_state.request": {
            "type": "object",
            "properties": {"batch_size": {"type": "integer", "minimum": 1, "maximum": _most_initial_rows(policy)}},
            "additionalProperties": False,
        },
        "get_initial_state.answer": an_object({"policy_state": value_or_batch(spec.initial_state, answered)}),
    }


def _most_initial_rows(policy: Policy) -> int:
    numbers = sum(_numbers(leaf) for _, leaf in leaves(policy.spec.initial_state))
    return min(policy.reader.rows_limit, max(1, MOST_ANSWER_NUMBERS // max(1, numbers)))


def _action_answer(policy: Policy, rest: dict[str, Any]) -> Schema:
    schema = an_object({"action": value_or_batch(policy.spec.action, answered), **rest})
    if any("log_prob" in signature.outputs for signature in policy.serving.signatures.values()):
        number = {"anyOf": [{"type": "number"}, NON_FINITE]}
        schema["properties"]["log_prob"] = {
            "anyOf": [number, {"type": "array", "items": number}],
            "description": "joint log-probability (density) of the action, in nats; with the option log_prob",
        }
    return schema


def _request(policy: Policy) -> Schema:
    fields = top_level(policy.spec)
    called = {name: request_name(name, fields) for name in fields}
    required = [f for f in fields if not (policy.spec.takes_time_step and f in DEFAULTED)]
    schema = {
        "type": "object",
        "properties": {
            **{called[name]: _input(policy, name, nest) for name, nest in fields.items()},
            "options": {"$ref": "#/components/schemas/Options"},
        },
        # Flattened names may stand in for the nested ones, so that only these can be asked for.
        "required": [called[name] for name in required if isinstance(fields[name], Leaf)],
        "x-flattened-names": {
            leaf.name: path for name, nest in fields.items() for path, leaf in leaves(nest, called[name])
        },
    }
    if sum(_numbers(leaf) for name in required for _, leaf in leaves(fields[name])) <= MOST_NUMBERS_SHOWN:
        schema["example"] = {called[name]: pack(fields[name], example_of) for name in required}
    return schema


def _input(policy: Policy, name: str, nest: Nest) -> Schema:
    """One field of a request, as `InputValidator` takes it."""
    reader = policy.reader
    item: ItemOf = partial(
        sent,
        step_type=name == "step_type" and policy.spec.takes_time_step,
        strict_bounds=reader.strict_bounds,
        non_finite=reader.non_finite,
    )
    return value_or_batch(nest, item, reader.rows_limit)


def _numbers(leaf: Leaf) -> int:
    return int(np.prod([size or 1 for size in leaf.shape]))


def _distributions(policy: Policy) -> Schema:
    infos = policy.serving.distributions
    if "distribution" not in policy.serving.signatures:
        return {"description": f"unavailable: {policy.serving.unavailable['distribution']}"}

    def described(leaf: Leaf) -> Schema:
        info = infos[leaf.name]
        return {
            "type": "object",
            "properties": {
                "family": {"const": info.family},
                **{name: {"const": value} for name, value in info.details.items()},
                "parameters": {"type": "object", "required": list(info.parameters)},
                **{name: {} for name in info.statistics},
            },
            "required": ["family", "parameters"],
        }

    return _objects(pack(policy.spec.action, described), policy.spec.action)


def _objects(packed: Any, nest: Nest) -> Schema:
    if isinstance(nest, Leaf):
        schema: Schema = packed
        return schema
    if isinstance(nest, dict):
        return an_object({key: _objects(packed[key], child) for key, child in nest.items()})
    return a_list([_objects(packed[index], child) for index, child in enumerate(nest)])
