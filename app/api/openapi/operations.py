"""A route of a policy → its operation: what may be sent, what is answered, and what is answered instead."""

from __future__ import annotations

from typing import Any

from app.api.openapi.nests import Schema, an_object
from app.api.problems import MEDIA_TYPE
from app.inference.policy import Policy
from app.wire.codecs import JSON, MSGPACK
from app.wire.limits import MOST_ANSWER_NUMBERS

_MSGPACK: Schema = {
    "type": "string",
    "format": "binary",
    "description": "A msgpack map with the fields of the JSON object; any array in it may be "
    '{"dtype", "shape", "data"} with raw little-endian bytes. docs/reference/binary.md shows it byte by byte',
}
SUMMARIES = {
    "action": "The policy's action",
    "distribution": "The distribution of the action, as data",
    "get_initial_state": "The policy state at the start of an episode",
}
PROBLEMS = {
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
PROBLEM: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "step": {"type": "integer", "description": "the last step of a session, where another one was asked for"},
        "errors": {
            "type": "array",
            "items": an_object({name: {"type": "string"} for name in ("where", "problem", "expected")}),
        },
    },
    "required": ["type", "title", "status", "detail"],
}


def operation(policy: Policy, route: str) -> dict[str, Any]:
    """Returns the operation of a data route of a policy."""
    request = "get_initial_state.request" if route == "get_initial_state" else "request"
    body = request_body(policy, route, reference(policy, request), required=route != "get_initial_state")
    return {
        "tags": [policy.name],
        "summary": SUMMARIES[route],
        "operationId": f"{policy.name}.{route}",
        "requestBody": body,
        "responses": {
            "200": {
                "description": "The answer, in the form of the request: one, or a batch",
                "content": bodies(reference(policy, f"{route}.answer")),
            },
            **problems(PROBLEMS),
        },
    }


def reference(policy: Policy, name: str) -> Schema:
    """Returns a reference to one of the schemas of a policy."""
    return {"$ref": f"#/components/schemas/{policy.name}.{name}"}


def request_body(policy: Policy, route: str, schema: Schema, *, required: bool = True) -> dict[str, Any]:
    """Returns what is said of the body of a request, with the limits that no schema can say."""
    as_json, as_msgpack = (policy.body_limit(route, codec) for codec in (JSON, MSGPACK))
    return {
        "required": required,
        "description": f"At most {as_json} bytes as JSON, or {as_msgpack} as msgpack; at most "
        f"{policy.reader.rows_limit} rows, and {MOST_ANSWER_NUMBERS} numbers in the answer to more than one",
        "content": bodies(schema),
    }


def bodies(schema: Schema) -> dict[str, Any]:
    """Returns the forms in which a schema is sent or answered."""
    return {JSON.media_type: {"schema": schema}, MSGPACK.media_type: {"schema": _MSGPACK}}


def problems(texts: dict[str, str]) -> dict[str, Any]:
    """Returns the responses that are problems: from the texts that describe them, by status."""
    content = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {status: {"description": text, **content} for status, text in texts.items()}
