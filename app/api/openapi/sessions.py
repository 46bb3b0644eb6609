"""The part of the OpenAPI document about a policy's sessions, made from its request and answer of `action`."""

from __future__ import annotations

from typing import Any

from app.api.openapi.nests import Schema
from app.api.openapi.operations import PROBLEMS, bodies, problems, reference, request_body
from app.api.routes.sessions import BEGIN, STEP
from app.inference.policy import Policy
from app.sessions import fields
from app.sessions.reading import STATE

_DESCRIBED: Schema = {
    "id": fields.ID.schema(0),
    "run_id": fields.RUN_ID.schema(0),
    "step": fields.STEP.kind.schema(0),
    "rows": {"type": ["integer", "null"]},
    "weights": fields.WEIGHTS.schema(0),
    "version": {"type": "string"},
    "train_step": {"type": "integer"},
}
_UNKNOWN = "No such policy, no such session, or no more"
_PROBLEMS = PROBLEMS | {
    "404": _UNKNOWN,
    "409": "Not the next step, another run's session, weights that are gone, or no weights as new as asked; `step` is "
    "the session's last one",
    "429": "Too many sessions, or too many requests wait; come again after `Retry-After` seconds",
    "501": "The policy, or this server, has no sessions, or not by these options",
    "503": "Paused or stopping, or the store of sessions cannot be reached",
}
_OF_DESCRIBE = {status: _PROBLEMS[status] for status in ("401", "404", "500", "501", "503")}
_OF_END = _OF_DESCRIBE | {"409": "Another run's session", "422": "`run_id` is not as it should be"}


def session_schemas(request: Schema, answer: Schema, rows_limit: int) -> dict[str, Schema]:
    """Returns JSON Schemas by name, from those of `action`; `rows_limit`: the most rows in one request."""
    inputs = {name: schema for name, schema in request["properties"].items() if name != STATE}
    outputs = {name: schema for name, schema in answer["properties"].items() if name != STATE}
    required = [name for name in answer["required"] if name != STATE]
    step = {"step": _DESCRIBED["step"]}
    begun = {"id": _DESCRIBED["id"], "run_id": _DESCRIBED["run_id"], **step}
    begin = {name: field.schema(rows_limit) for name, field in fields.BEGIN_FIELDS.items()}
    following = {name: field.schema(rows_limit) for name, field in fields.STEP_FIELDS.items()}
    return {
        "session.begin": request | {"properties": inputs | begin},
        "session.step": request | {"properties": inputs | following},
        "session.begun": {"type": "object", "properties": begun | outputs, "required": [*begun, *required]},
        "session.stepped": {"type": "object", "properties": step | outputs, "required": ["step", *required]},
        "session": {"type": "object", "properties": _DESCRIBED, "required": list(_DESCRIBED)},
    }


def session_paths(policy: Policy, prefix: str | None = None, called: str = "", tag: str = "") -> dict[str, Any]:
    """Returns the routes of a policy's sessions.

    Args:
      policy: whose schemas they refer to.
      prefix: what comes before `/sessions` in their paths; None for the policy's own.
      called: what their operations are called after; "" for the policy's name.
      tag: under which they are listed; "" for the policy's name.
    """

    def operation(name: str, summary: str, texts: dict[str, str], **more: Any) -> Schema:
        return {
            "tags": [tag or policy.name],
            "summary": summary,
            "operationId": f"{called or policy.name}.session.{name}",
            "responses": {**more.pop("responses"), **problems(texts)},
            **more,
        }

    def answers(status: str, text: str, name: str) -> Schema:
        return {status: {"description": text, "content": bodies(reference(policy, name))}}

    root = f"{f'/v1/policies/{policy.name}' if prefix is None else prefix}/{BEGIN}"
    id_ = {"name": "id", "in": "path", "required": True, "schema": fields.ID.schema(0)}
    run = {
        "name": "run_id",
        "in": "query",
        "schema": fields.RUN_ID.schema(0),
        "description": "only if it is this run's",
    }
    described = {"content": {"application/json": {"schema": reference(policy, "session")}}}
    return {
        root: {
            "post": operation(
                "begin",
                "Starts a session; its first action",
                _PROBLEMS,
                requestBody=request_body(policy, BEGIN, reference(policy, "session.begin")),
                responses=answers("201", "The session has started", "session.begun"),
            )
        },
        root + "/{id}/action": {
            "parameters": [id_],
            "post": operation(
                "step",
                "The next action of a session",
                _PROBLEMS,
                requestBody=request_body(policy, STEP, reference(policy, "session.step")),
                responses=answers("200", "The next action of a session", "session.stepped"),
            ),
        },
        root + "/{id}": {
            "parameters": [id_],
            "get": operation(
                "describe",
                "What is kept of a session",
                _OF_DESCRIBE,
                responses={"200": {"description": "What is kept of a session", **described}},
            ),
            "delete": operation(
                "end",
                "Ends a session",
                _OF_END,
                parameters=[run],
                responses={"204": {"description": "The session has ended"}},
            ),
        },
    }
