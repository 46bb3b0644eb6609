"""TensorFlow Serving's REST calls: `/v1/models/…`. Most predict requests take `app/api/fast_path.py` instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import orjson
from fastapi import Request, Response
from starlette.routing import Route as StarletteRoute

from app.api.access import Guard
from app.api.foreign import AwaitedReply, ForeignCycle, answer_by
from app.api.problems import error_response, kind_of
from app.api.request_cycle import Large, Route
from app.dialects.tensorflow_serving.models import (
    LATEST,
    metadata,
    not_served,
    status,
    train_step_of,
    unknown_model,
)
from app.dialects.tensorflow_serving.predict import PredictParser
from app.errors import DoesNotFit, Malformed, UnknownPolicy
from app.inference.policy import Policy
from app.inference.service import Service
from app.metrics import DataMetrics, Metrics
from app.wire.codecs import JSON

# What its requests are counted under.
PREDICT = "tensorflow_serving"
_ROOT = "/v1/models"
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"(?i)/(?P<model>[^/:]+){_VERSION}:(?P<call>classify|regress|predict)")
_GET = re.compile(rf"(?i)(?:/(?P<model>[^/:]+))?{_VERSION}(?P<call>/metadata)?")
# Others than GET and POST are refused in the form of its errors.
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_BAD_REQUEST = 400


class _Target(NamedTuple):
    """What a path names: a model, a version of it, if any, or its label, and what is asked of it."""

    model: str
    train_step: int | None
    label: str
    call: str


def predict_paths(policy: str) -> Iterator[str]:
    """Yields the paths at which clients ask a policy without naming a version, as they mostly write them."""
    yield f"{_ROOT}/{policy}:predict"
    yield f"{_ROOT}/{policy}/labels/{LATEST}:predict"


def predict_route(
    service: Service, parser: PredictParser, metrics: DataMetrics, train_step: int | None = None
) -> Route:
    """Makes the route of predict requests to one policy; `train_step`: of the version that they name."""
    policy = parser.policy
    large = Large(
        service,
        policy.body_limit("action", JSON),
        partial(parser.at_once, train_step=train_step),
        partial(parser.large, train_step=train_step),
        lambda asked: asked,
    )
    read = partial(parser.read, train_step=train_step)
    return Route(read, JSON, metrics, large, PredictCycle)


def models_route(service: Service, metrics: Metrics, guard: Guard) -> StarletteRoute:
    """Makes the route of all calls; its paths may be in either case, as in TensorFlow Serving."""
    parsers: dict[str, PredictParser] = {}

    def parser_of(policy: Policy) -> PredictParser:
        if policy.name not in parsers:
            parsers[policy.name] = PredictParser(service.parser, policy)
        return parsers[policy.name]

    async def respond(request: Request) -> Response:
        try:
            await guard(request)
            if request.method != "POST":
                return await _describe(service, request)
        except Exception as error:
            return refusal(error)
        return await _predict(service, metrics, parser_of, request)

    route = StarletteRoute(f"{_ROOT}{{rest:path}}", respond, methods=_METHODS, include_in_schema=False)
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    return route


class PredictCycle(ForeignCycle):
    """A predict request; its errors have the statuses of TensorFlow Serving."""

    def _problem(self, error: Exception) -> Response:
        return refusal(error)


def refusal(error: Exception) -> Response:
    """Returns the response for an error: of input that does not fit, the status is another one than on our routes."""
    response = error_response(error)
    if isinstance(error, DoesNotFit):
        response.status_code = _BAD_REQUEST
    return response


async def _predict(
    service: Service, metrics: Metrics, parser_of: Callable[[Policy], PredictParser], request: Request
) -> Response:
    started, known = perf_counter(), ""
    try:
        target = _target(request, _POST)
        policy = _policy(service, target)
        known = policy.name
        route = predict_route(service, parser_of(policy), metrics.data(known, PREDICT), target.train_step)
        if target.call != "predict":
            name = "classification" if target.call == "classify" else "regression"
            raise Malformed(
                f"Expected {name} signature method_name to be tensorflow/serving/{target.call}. "
                "Was: tensorflow/serving/predict"
            )
    except Exception as error:
        response = refusal(error)
        metrics.data(known, PREDICT).refused(kind_of(error), response.status_code, perf_counter() - started)
        return response

    return await answer_by(request, service, route, AwaitedReply())


async def _describe(service: Service, request: Request) -> Response:
    target = _target(request, _GET)
    if not target.model:
        raise Malformed("Missing model name in request.")
    if target.call:
        policy = _policy(service, target)
        return _json(metadata(policy, target.train_step))
    try:
        policy = service.policy(target.model)
    except UnknownPolicy:
        found = "any versions" if target.train_step is None else f"version {target.train_step}"
        raise UnknownPolicy(f"Could not find {found} of model {target.model}") from None
    listed = await policy.manager.status()
    wanted = policy.versions.active.version.train_step if target.label else target.train_step
    return _json(status(policy.name, listed["versions"], wanted))


def _target(request: Request, pattern: re.Pattern[str]) -> _Target:
    found = pattern.fullmatch(request.path_params["rest"]) if request.method in ("GET", "POST") else None
    if found is None:
        raise Malformed(f"Malformed request: {request.method} {request.url.path}")
    train_step = train_step_of(found["version"] or "", found["label"] or "")
    return _Target(found["model"] or "", train_step, found["label"] or "", (found["call"] or "").lower())


def _policy(service: Service, target: _Target) -> Policy:
    try:
        policy = service.policy(target.model)
    except UnknownPolicy:
        raise unknown_model(target.model, target.train_step) from None
    if target.train_step not in (None, policy.versions.active.version.train_step):
        raise not_served(policy.name, target.train_step)
    return policy


def _json(structure: Any) -> Response:
    return Response(orjson.dumps(structure), media_type=JSON.media_type)
