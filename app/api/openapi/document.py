"""The OpenAPI document: FastAPI's own for the fixed routes, plus each policy's routes with concrete models.

A policy's models are JSON Schemas made from its spec, so that a generated client knows every field and shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.api.openapi.sessions import session_paths, session_schemas
from app.api.problems import MEDIA_TYPE
from app.inference.policy import Policy
from app.inputs.names import DEFAULTED, MOST_NUMBERS_SHOWN, example_of, request_name, top_level
from app.wire.codecs import JSON, MSGPACK
from saver.artifact import Leaf, Nest, leaves, pack

# Those of app/api/routes/health.py.
_OPEN_PATHS = ("/livez", "/readyz", "/metrics")
_NON_FINITE = {"enum": ["NaN", "Infinity", "-Infinity"]}


def document(
    base: dict[str, Any],
    policies: Sequence[Policy],
    default: str | None = None,
    *,
    admin_token: bool = False,
    data_token: bool = False,
) -> dict[str, Any]:
    """Adds the data routes of every policy, and of the default one, to FastAPI's document `base`.

    `default`: the name of the default policy, which may be none of those that are open; the first where none is given.
    `admin_token`, `data_token`: whether the server has one; only routes that ask for a token get a lock.
    """
    components = base.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    schemas["Options"] = _OPTIONS
    paths: dict[str, Any] = {}
    for policy in policies:
        schemas |= {f"{policy.name}.{name}": schema for name, schema in policy_schemas(policy).items()}
        for route in _SUMMARIES:
            paths[f"/v1/policies/{policy.name}/{route}"] = {"post": _operation(policy, route)}
        if policy.spec.takes_time_step:
            paths |= session_paths(policy.name, _bodies, _A_PROBLEM)
    for policy in [policy for policy in policies if policy.name == (default or policies[0].name)]:
        for route in _SUMMARIES:
            operation = _operation(policy, route)
            operation |= {"operationId": f"default.{route}", "tags": [f"{policy.name}, the default policy"]}
            paths[f"/{route}"] = {"post": operation}
    for path, operations in base["paths"].items():
        for verb in operations.keys() - {"parameters"}:
            answers = operations[verb].setdefault("responses", {})
            answers.pop("422", None)  # FastAPI's own, which no route answers
            answers |= _fixed_problems(path)
    paths |= base["paths"]
    if admin_token or data_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in paths.items():
        if admin_token if path.startswith("/admin") else data_token and path not in _OPEN_PATHS:
            for verb in operations.keys() - {"parameters"}:
                operations[verb]["security"] = [{"token": []}]
    return {**base, "paths": paths}


def policy_schemas(policy: Policy) -> dict[str, Any]:
    """JSON Schemas of a policy's requests and answers, by name."""
    spec = policy.spec
    version = {"version": {"type": "string"}, "train_step": {"type": "integer"}}
    answer: dict[str, Any] = {}
    for key, nest in (("policy_state", spec.state), ("info", spec.info)):
        if any(True for _ in leaves(nest)):
            answer[key] = _either(nest, answers=True)
    state = _either(spec.initial_state, answers=True)
    request, action = _request(policy), _action_answer(policy, answer | version)
    return {
        "request": request,
        "action.answer": action,
        **(session_schemas(request, action) if spec.takes_time_step else {}),
        "distribution.answer": {
            "type": "object",
            "properties": {"distribution": _distributions(policy), **answer, **version},
            "required": ["distribution", *version],
        },
        "get_initial_state.request": {
            "type": "object",
            "properties": {"batch_size": {"type": "integer", "minimum": 1}},
            "additionalProperties": False,
        },
        "get_initial_state.answer": _object({"policy_state": state}),
    }


def _action_answer(policy: Policy, rest: dict[str, Any]) -> dict[str, Any]:
    schema = _object({"action": _either(policy.spec.action, answers=True), **rest})
    if any("log_prob" in signature.outputs for signature in policy.serving.signatures.values()):
        number = {"anyOf": [{"type": "number"}, _NON_FINITE]}
        schema["properties"]["log_prob"] = {
            "anyOf": [number, {"type": "array", "items": number}],
            "description": "joint log-probability (density) of the action, in nats; with the option log_prob",
        }
    return schema


def _request(policy: Policy) -> dict[str, Any]:
    fields = top_level(policy.spec)
    called = {name: request_name(name, fields) for name in fields}
    required = [f for f in fields if not (policy.spec.takes_time_step and f in DEFAULTED)]
    schema = {
        "type": "object",
        "properties": {
            **{called[name]: _either(nest) for name, nest in fields.items()},
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


def _numbers(leaf: Leaf) -> int:
    return int(np.prod([size or 1 for size in leaf.shape]))


def _either(nest: Nest, answers: bool = False) -> dict[str, Any]:
    """One value, or a batch of them."""
    return {"anyOf": [_schema(nest, [], answers), _schema(nest, [None], answers)]}


def _schema(nest: Nest, outer: list[int | None], answers: bool) -> dict[str, Any]:
    if isinstance(nest, dict):
        return _object({key: _schema(child, outer, answers) for key, child in nest.items()})
    if isinstance(nest, tuple):
        return _list([_schema(child, outer, answers) for child in nest])
    schema = _item(nest, answers)
    for size in reversed([*outer, *nest.shape]):
        limits = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **limits}
    return schema | {"description": f"{nest.name}: {nest.dtype} {list(nest.shape)}"}


def _item(leaf: Leaf, answers: bool) -> dict[str, Any]:
    if leaf.dtype == "string":
        return {"type": "string"}
    if leaf.dtype == "bool":
        return {"type": "boolean"}
    if leaf.is_float:
        number = {"type": "number"}
        return {"anyOf": [number, _NON_FINITE]} if answers else number
    bounds: dict[str, Any] = {}
    if leaf.is_integer and not answers:
        bounds = {
            key: value
            for key, value in (("minimum", leaf.minimum), ("maximum", leaf.maximum))
            if isinstance(value, int)
        }
    return {"type": "integer", **bounds}


def _distributions(policy: Policy) -> dict[str, Any]:
    infos = policy.serving.distributions
    if "distribution" not in policy.serving.signatures:
        return {"description": f"unavailable: {policy.serving.unavailable['distribution']}"}

    def described(leaf: Leaf) -> dict[str, Any]:
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


def _objects(packed: Any, nest: Nest) -> dict[str, Any]:
    if isinstance(nest, Leaf):
        schema: dict[str, Any] = packed
        return schema
    if isinstance(nest, dict):
        return _object({key: _objects(packed[key], child) for key, child in nest.items()})
    return _list([_objects(packed[index], child) for index, child in enumerate(nest)])


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    # JSON Schema has no empty prefixItems: the state of a stateless policy is an empty list.
    one_by_one = {"prefixItems": items} if items else {}
    return {"type": "array", **one_by_one, "minItems": len(items), "maxItems": len(items)}


def _operation(policy: Policy, route: str) -> dict[str, Any]:
    def ref(name: str) -> dict[str, str]:
        return {"$ref": f"#/components/schemas/{policy.name}.{name}"}

    request = "get_initial_state.request" if route == "get_initial_state" else "request"
    return {
        "tags": [policy.name],
        "summary": _SUMMARIES[route],
        "operationId": f"{policy.name}.{route}",
        "requestBody": {
            "required": route != "get_initial_state",
            "content": _bodies(ref(request)),
        },
        "responses": {
            "200": {
                "description": "The answer, in the form of the question: one, or a batch",
                "content": _bodies(ref(f"{route}.answer")),
            },
            **{status: {"description": text, **_A_PROBLEM} for status, text in _PROBLEMS.items()},
        },
    }


def _fixed_problems(path: str) -> dict[str, Any]:
    """What a route that FastAPI knows answers where it cannot do what is asked; health and metrics always can."""
    texts = {}
    if path.startswith(("/v1", "/admin")):
        texts = {"401": _PROBLEMS["401"]}
    if "{policy}" in path:
        texts |= {"404": _PROBLEMS["404"]}
    if path.startswith("/admin"):
        texts |= _ADMIN_PROBLEMS
    return {status: {"description": text, **_A_PROBLEM} for status, text in texts.items()}


def _bodies(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON.media_type: {"schema": schema}, MSGPACK.media_type: {"schema": _MSGPACK}}


_A_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_MSGPACK = {
    "type": "string",
    "format": "binary",
    "description": "A msgpack map with the fields of the JSON object; any array in it may be "
    '{"dtype", "shape", "data"} with raw little-endian bytes. docs/reference/binary.md shows it byte by byte',
}
_SUMMARIES = {
    "action": "The policy's action",
    "distribution": "The distribution of the action, as data",
    "get_initial_state": "The policy state at the start of an episode",
}
_PROBLEMS = {
    "400": "Not JSON, or not msgpack",
    "401": "No token, or a wrong one",
    "404": "No such policy",
    "409": "No weights as new as asked",
    "413": "The body is too large",
    "415": "No such content type",
    "422": "The input does not fit the spec; `errors` names each field",
    "429": "Too many requests wait; come again after `Retry-After` seconds",
    "500": "The policy failed",
    "501": "The policy cannot do that",
    "503": "Paused, or stopping",
    "504": "No answer before the deadline",
}
_ADMIN_PROBLEMS = {
    "403": "No admin token is configured: these routes are closed",
    "404": "No such policy, or no such checkpoint",
    "409": "It may not serve, or there is nothing to go back to; nothing has changed",
    "413": "The body is too large",
    "415": "No such content type",
    "422": "The request is not as it should be; `errors` names each field",
    "501": "No folder can be written",
    "503": "The server is stopping",
    "504": "It has not ended yet, and goes on",
}
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "step": {"type": "integer", "description": "the last step of a session, where another one was asked for"},
        "errors": {
            "type": "array",
            "items": _object({name: {"type": "string"} for name in ("where", "problem", "expected")}),
        },
    },
    "required": ["type", "title", "status", "detail"],
}
_OPTIONS = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["sample", "greedy"]},
        "seed": {"type": "integer", "minimum": 0},
        "log_prob": {"type": "boolean"},
        "min_train_step": {"type": "integer"},
        "timeout_ms": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}
