"""Errors → `application/problem+json` (RFC 9457), by one table."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app import errors

log = logging.getLogger("policy_server.http")

MEDIA_TYPE = "application/problem+json"
_BUG = "Internal error"
# The roots of the paths of other servers' protocols, whose errors are {"error": text}.
FOREIGN = ("/v2", "/v1/models")
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

# Error → status and title. A subclass without a row of its own would be a 500: a test walks the tree.
STATUS: dict[type[errors.PolicyServerError], tuple[int, str]] = {
    errors.NotJson: (400, "Not JSON"),
    errors.NotMsgpack: (400, "Not msgpack"),
    errors.NotHttp: (400, "Not HTTP"),
    errors.NotWebSocket: (400, "Not a WebSocket"),
    errors.NotDecodable: (400, "Not decodable"),
    errors.Malformed: (400, "Malformed request"),
    errors.SequenceNotStarted: (400, "Sequence not started"),
    errors.Unauthorized: (401, "Unauthorized"),
    errors.Forbidden: (403, "Forbidden"),
    errors.UnknownPolicy: (404, "Unknown policy"),
    errors.UnknownVersion: (404, "Unknown version"),
    errors.UnknownSession: (404, "Unknown session"),
    errors.RequestTimeout: (408, "Request timeout"),
    errors.SessionConflict: (409, "Session conflict"),
    errors.WeightsGone: (409, "Weights gone"),
    errors.VersionNotLoaded: (409, "Version not loaded"),
    errors.SwapRefused: (409, "Swap refused"),
    errors.TooOld: (409, "Weights too old"),
    errors.BodyTooLarge: (413, "Body too large"),
    errors.TargetTooLong: (414, "Target too long"),
    errors.UnknownMediaType: (415, "Unknown media type"),
    errors.UnknownEncoding: (415, "Unknown content encoding"),
    errors.DoesNotFit: (422, "Does not fit the spec"),
    errors.Overloaded: (429, "Overloaded"),
    errors.HeadTooLarge: (431, "Head too large"),
    errors.ClientGone: (499, "Client gone"),  # for the metrics, by nginx's custom: no caller can see it
    errors.Unsupported: (501, "Unsupported"),
    errors.NotReady: (503, "Not ready"),
    errors.FleetLost: (503, "Fleet lost"),
    errors.LinkLost: (503, "Process lost"),
    errors.DeadlinePassed: (504, "Deadline passed"),
    errors.EngineFailed: (500, "Engine failed"),
    errors.UnusablePolicy: (500, "Unusable policy"),
}


def status_of(error: Exception) -> int:
    """Returns the HTTP status of an error, by the nearest of its kinds in the table; 500 where none is."""
    return _row(error)[0]


def kind_of(error: Exception) -> str:
    """Returns the last word of a problem's type: "does-not-fit-the-spec"."""
    return _kind(_row(error)[1])


def _kind(title: str) -> str:
    return title.lower().replace(" ", "-")


def _row(error: Exception) -> tuple[int, str]:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, _BUG))


def detail_of(error: Exception) -> str:
    """Returns what a caller is to know about an error; one that is not ours is logged."""
    if _row(error)[1] == _BUG:
        log.error("a request ended in a bug", exc_info=error)
        return "this is a bug of the server; its log has the details"
    return str(error)


def problem_response(error: Exception) -> Response:
    """Returns the response for an error; one that is not ours is logged."""
    status, title = _row(error)
    extra: dict[str, Any] = {}
    if isinstance(error, errors.DoesNotFit):
        extra["errors"] = [vars(problem) for problem in error.problems]
    if isinstance(error, errors.SessionConflict):
        extra["step"] = error.step
    return _response(status, title, detail_of(error), extra, _headers(error))


def error_response(error: Exception) -> Response:
    """Returns the response for an error in another server's protocol: the same status and header fields, other JSON."""
    return _error(status_of(error), detail_of(error), _headers(error))


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": text}), status, headers, "application/json")


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.Overloaded | errors.NotReady) and error.retry_after_s:
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.UnknownEncoding):
        return {"Accept-Encoding": error.accepted}
    if isinstance(error, errors.Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.LinkLost):
        return {"Retry-After": "1"}  # the process is started again
    return {}


def _is_foreign(request: Request) -> bool:
    """Returns whether a path is one of another server's protocol."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    return any(path == root or path.startswith(f"{root}/") for root in FOREIGN)


def install(app: FastAPI) -> None:
    """Answers every error of `app` with problem+json, and with {"error": text} under the paths of other protocols."""

    @app.exception_handler(errors.PolicyServerError)
    @app.exception_handler(Exception)
    async def _ours(request: Request, error: Exception) -> Response:
        return error_response(error) if _is_foreign(request) else problem_response(error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        detail = f"{error.detail}: {request.method} {request.url.path}"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(request)))
        if _is_foreign(request):
            return _error(error.status_code, detail, headers)
        return _response(error.status_code, str(error.detail), detail, {}, headers)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> Response:
        if any(item["type"] == "json_invalid" for item in error.errors()):
            return problem_response(errors.NotJson("the body is not JSON"))
        return problem_response(errors.DoesNotFit([_problem(item) for item in error.errors()]))


def _methods(request: Request) -> set[str]:
    """Returns all methods of a path: the framework names those of its first route alone."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    return {
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    }


def _problem(item: dict[str, Any]) -> errors.Problem:
    """Makes a problem of one finding of pydantic."""
    where = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
    expected = "no such field" if item["type"] == "extra_forbidden" else item["msg"]
    return errors.Problem(where, reprlib.repr(item.get("input"))[:60], expected)


def _response(
    status: int,
    title: str,
    detail: str,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    body = {
        "type": f"urn:policy-server:problem:{_kind(title)}",
        "title": title,
        "status": status,
        "detail": detail,
        **(extra or {}),
    }
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)
