"""The part of the OpenAPI document about reading a policy's experience."""

from __future__ import annotations

from typing import Any

from app.api.openapi.nests import NON_FINITE, Schema, an_object
from app.api.openapi.operations import PROBLEMS, bodies, problems, reference
from app.api.routes.experience import EXPERIENCE
from app.experience.query import PARAMETERS
from app.experience.schema import STRING, columns_of
from app.inference.policy import Policy

_DESCRIBED = {
    "cursor": "That of the answer before; none for the oldest row, `end` for what comes from now on",
    "max_rows": "The most rows; fewer come where they would be more than 4 MiB",
    "wait_ms": "Without rows, how long to wait for one",
    "min_train_step": "Only rows of weights with at least so many steps of training",
    "complete_episodes": "Only whole episodes, one behind the other, in the order in which they ended",
}
_PROBLEMS = {
    **{status: PROBLEMS[status] for status in ("401", "404", "500")},
    "422": "A parameter is wrong, or the cursor is of other experience",
    "429": "Too many readers wait; come again after `Retry-After` seconds",
    "501": "No experience is recorded, or the policy has no sessions",
    "503": "The process that keeps experience is being started again, or the server is stopping",
}


def experience_schema(policy: Policy) -> Schema:
    """Returns the JSON Schema of an answer: columns only where there are rows."""
    columns: Schema = {
        column.name: {"type": "array", "items": _value(column.dtype, column.shape)}
        for column in columns_of(policy.spec)
    }
    count = {"type": "integer", "minimum": 0}
    answer = an_object({"cursor": {"type": "string"}, "rows": count, "lost_rows": count})
    answer["properties"]["columns"] = {"type": "object", "properties": columns}
    return answer | {"required": ["cursor", "rows", "lost_rows", "columns"]}


def experience_paths(policy: Policy, prefix: str | None = None, called: str = "", tag: str = "") -> dict[str, Any]:
    """Returns the route; the arguments are those of `session_paths`."""
    parameters = [
        {"name": name, "in": "query", "schema": parameter.schema, "description": _DESCRIBED[name]}
        for name, parameter in PARAMETERS.items()
    ]
    content = bodies(reference(policy, EXPERIENCE))
    operation = {
        "tags": [tag or policy.name],
        "summary": "What sessions have seen: rows behind a cursor",
        "operationId": f"{called or policy.name}.{EXPERIENCE}",
        "parameters": parameters,
        "responses": {"200": {"description": "The rows that follow", "content": content}, **problems(_PROBLEMS)},
    }
    return {f"{f'/v1/policies/{policy.name}' if prefix is None else prefix}/{EXPERIENCE}": {"get": operation}}


def _value(dtype: str, shape: tuple[int | None, ...]) -> Schema:
    kind = "boolean" if dtype == "bool" else "integer" if "int" in dtype else STRING
    one: Schema = {"type": kind}
    if dtype.startswith(("float", "bfloat")):
        one = {"anyOf": [{"type": "number"}, NON_FINITE]}
    for size in reversed(shape):
        one = {"type": "array", "items": one} | ({} if size is None else {"minItems": size, "maxItems": size})
    return one
