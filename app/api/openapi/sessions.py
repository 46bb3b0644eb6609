"""The part of the OpenAPI document that tells of a policy's sessions, made from its request and answer of `action`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.sessions.reading import LONGEST_NAME, STATE

Schema = dict[str, Any]
_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": LONGEST_NAME}
_RUN: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_STEP: Schema = {"type": "integer", "minimum": 0}
_BEGIN: Schema = {"id": _ID, "run_id": _RUN, "weights": {"enum": ["latest", "episode"]}}
_NEXT: Schema = {
    "step": _STEP | {"description": "one more than the last; the last one again gets the same answer"},
    "run_id": _RUN,
    "first": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "boolean"}}]},
}
_DESCRIBED: Schema = {
    "id": _ID,
    "run_id": _RUN,
    "step": _STEP,
    "rows": {"type": ["integer", "null"]},
    "weights": {"enum": ["latest", "episode"]},
    "version": {"type": "string"},
    "train_step": {"type": "integer"},
}
_PROBLEMS = {
    "400": "Not JSON, or not msgpack",
    "401": "No token, or a wrong one",
    "404": "No such policy, no such session, or no more",
    "409": "Not the next step, another run's session, or weights that are gone; `step` is the last one",
    "413": "The body is too large",
    "415": "No such content type",
    "422": "The input does not fit the spec; `errors` names each field",
    "429": "Too many sessions, or too many requests wait; come again after `Retry-After` seconds",
    "500": "The policy failed",
    "501": "The policy, or this server, has no sessions",
    "503": "The store of sessions cannot be reached",
    "504": "No answer before the deadline",
}


def session_schemas(request: Schema, answer: Schema) -> dict[str, Schema]:
    """JSON Schemas by name, from those of `action`."""
    inputs = {name: schema for name, schema in request["properties"].items() if name != STATE}
    outputs = {name: schema for name, schema in answer["properties"].items() if name != STATE}
    required = [name for name in answer["required"] if name != STATE]
    begun = {"id": _ID, "run_id": _RUN, "step": _STEP}
    return {
        "session.begin": request | {"properties": inputs | _BEGIN},
        "session.step": request | {"properties": inputs | _NEXT},
        "session.begun": {"type": "object", "properties": begun | outputs, "required": [*begun, *required]},
        "session.stepped": {"type": "object", "properties": {"step": _STEP} | outputs, "required": ["step", *required]},
        "session": {"type": "object", "properties": _DESCRIBED, "required": list(_DESCRIBED)},
    }


def session_paths(policy: str, bodies: Callable[[Schema], Schema], problem: Schema) -> dict[str, Any]:
    """The routes. `bodies`: a schema → what is sent or answered, in each form; `problem`: what is answered instead."""

    def ref(name: str) -> Schema:
        return {"$ref": f"#/components/schemas/{policy}.{name}"}

    def operation(name: str, summary: str, status: str, answer: Schema, **more: Any) -> Schema:
        problems = {status: {"description": text, **problem} for status, text in _PROBLEMS.items()}
        return {
            "tags": [policy],
            "summary": summary,
            "operationId": f"{policy}.session.{name}",
            "responses": {status: {"description": summary, **answer}, **problems},
            **more,
        }

    def asked(name: str) -> Schema:
        return {"required": True, "content": bodies(ref(name))}

    root = f"/v1/policies/{policy}/sessions"
    id_ = {"name": "id", "in": "path", "required": True, "schema": _ID}
    run = {"name": "run_id", "in": "query", "schema": _RUN, "description": "only if it is still that run"}
    begun, stepped = ({"content": bodies(ref(name))} for name in ("session.begun", "session.stepped"))
    described = {"content": {"application/json": {"schema": ref("session")}}}
    return {
        root: {
            "post": operation(
                "begin", "A session begins; its first action", "201", begun, requestBody=asked("session.begin")
            )
        },
        root + "/{id}/action": {
            "parameters": [id_],
            "post": operation(
                "step", "The next action of a session", "200", stepped, requestBody=asked("session.step")
            ),
        },
        root + "/{id}": {
            "parameters": [id_],
            "get": operation("describe", "What is kept of a session", "200", described),
            "delete": operation("end", "The session ends", "204", {}, parameters=[run]),
        },
    }
