"""The OpenAPI document: FastAPI's own for the fixed routes, plus each policy's routes with concrete models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.api.openapi.experience import experience_paths
from app.api.openapi.operations import PROBLEM, PROBLEMS, SUMMARIES, operation, problems
from app.api.openapi.schemas import policy_schemas
from app.api.openapi.sessions import session_paths
from app.inference.policy import Policy
from app.inputs.options import OPTION_FIELDS

# The tag of the routes of app/api/routes/health.py, which are open to all.
_OPEN_TAG = "health"
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
    schemas["Problem"] = PROBLEM
    schemas["Options"] = _options()
    paths: dict[str, Any] = {}
    for policy in policies:
        schemas |= {f"{policy.name}.{name}": schema for name, schema in policy_schemas(policy).items()}
        for route in SUMMARIES:
            paths[f"/v1/policies/{policy.name}/{route}"] = {"post": operation(policy, route)}
        if policy.spec.takes_time_step:
            paths |= session_paths(policy) | experience_paths(policy)
    for policy in [policy for policy in policies if policy.name == (default or policies[0].name)]:
        paths |= _of_default(policy)
    for path, operations in base["paths"].items():
        for verb in operations.keys() - {"parameters"}:
            answers = operations[verb].setdefault("responses", {})
            answers.pop("422", None)  # FastAPI's own, which no route answers
            answers |= _fixed_problems(path)
    paths |= base["paths"]
    if admin_token or data_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in paths.items():
        if admin_token if path.startswith("/admin") else data_token:
            for verb in operations.keys() - {"parameters"}:
                if _OPEN_TAG not in operations[verb].get("tags", ()):
                    operations[verb]["security"] = [{"token": []}]
    return {**base, "paths": paths}


def _of_default(policy: Policy) -> dict[str, Any]:
    """The short routes of the default policy."""
    tag = f"{policy.name}, the default policy"
    paths: dict[str, Any] = {}
    for route in SUMMARIES:
        paths[f"/{route}"] = {"post": operation(policy, route) | {"operationId": f"default.{route}", "tags": [tag]}}
    if policy.spec.takes_time_step:
        paths |= session_paths(policy, "", "default", tag) | experience_paths(policy, "", "default", tag)
    return paths


def _options() -> dict[str, Any]:
    # No option is a list, so that no number of rows bounds it.
    properties = {name: field.schema(0) for name, field in OPTION_FIELDS.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _fixed_problems(path: str) -> dict[str, Any]:
    """What a route that FastAPI knows answers where it cannot do what is asked; health and metrics always can."""
    texts = {}
    if path.startswith(("/v1", "/admin")):
        texts = {"401": PROBLEMS["401"]}
    if "{policy}" in path:
        texts |= {status: PROBLEMS[status] for status in ("404", "503")}
    if path.startswith("/admin"):
        texts |= _ADMIN_PROBLEMS
    return problems(texts)
