"""Data requests answered without the framework: no scope, no task, no middleware; one call from body to batch.

Whatever takes more than that is left to FastAPI, whose endpoints have the same `RequestCycle` answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial

from app.api.access import check_bearer
from app.api.gathering import Gathering
from app.api.models import JSON_LENGTH, Models, model_of_path
from app.api.request_cycle import Large, Route, data_route
from app.api.routes.data import ROUTES, data_paths
from app.api.routes.sessions import BEGIN, STEP
from app.api.routes.tensorflow_serving import PREDICT, predict_paths, predict_route
from app.api.server_timing import NAME as SERVER_TIMING
from app.api.server_timing import is_asked, with_header
from app.api.websocket import WebSockets
from app.dialects.tensorflow_serving.predict import PredictParser
from app.errors import PolicyServerError, UnknownMediaType
from app.inference.policy import Policy
from app.inference.request_parser import PendingRequest
from app.inference.service import Service
from app.inputs.typed_rows import RowsDecoder
from app.metrics import Metrics
from app.sessions.record import Answer
from app.sessions.sessions import Sessions
from app.wire.codecs import JSON, MSGPACK, Codec, reader_of, writer_of

Headers = Sequence[tuple[bytes, bytes]]
# What the bytes of a header mean is kept for so many kinds of clients.
_MOST_MEDIA = 64


class _Endpoint:
    """A path, with its routes by the values of the headers content-type and accept.

    `make`: the codecs of a request's body and of its answer → the route.
    """

    def __init__(self, make: Callable[[Codec, Codec], Route]) -> None:
        self._make = make
        self.routes: dict[tuple[bytes, bytes], Route] = {}

    def route(self, media: bytes, accept: bytes) -> Route | None:
        """Makes a route; None where a body of this type is not read: the framework refuses it."""
        try:
            reads = reader_of(media.decode("latin-1"))
        except UnknownMediaType:
            return None
        route = self._make(reads, writer_of(accept.decode("latin-1"), reads))
        if len(self.routes) < _MOST_MEDIA:
            self.routes[media, accept] = route
        return route


class _InferEndpoint:
    """A model's path, with its routes by the length of the JSON in a body. `make`: that length, or None → the route."""

    def __init__(self, make: Callable[[int | None], Route]) -> None:
        self._make = make
        self._routes: dict[bytes, Route] = {}

    def route(self, json_length: bytes) -> Route:
        """Makes a route, or returns the one that was made for this length; b"": the body is all JSON."""
        found = self._routes.get(json_length)
        if found is None:
            found = self._make(int(json_length) if json_length else None)
            if len(self._routes) < _MOST_MEDIA:
                self._routes[json_length] = found
        return found


class FastPath:
    """Decides which requests need no framework.

    `token` guards the data routes; "" leaves them open. `crosses_origins`: browsers' requests get headers from
    middleware, and so take the framework. `websockets`: the paths whose requests may become a WebSocket.
    """

    websockets: WebSockets | None = None

    def __init__(
        self,
        service: Service,
        sessions: Sessions,
        metrics: Metrics,
        *,
        token: str,
        crosses_origins: bool,
    ) -> None:
        self.service = service
        self._sessions = sessions
        self._metrics = metrics
        self._token = token
        self.body_limit = 0
        self._for_framework = {b"expect", b"transfer-encoding", b"content-encoding", SERVER_TIMING} | (
            {b"origin"} if crosses_origins else set()
        )
        self._endpoints: dict[bytes, _Endpoint] = {}
        self._sessions_of: dict[bytes, Policy] = {}
        self._gatherings: dict[RowsDecoder, Gathering] = {}
        self._models = Models(service, sessions)
        self._inferring: dict[bytes, _InferEndpoint] = {}
        for policy in service.policies:
            self.add(policy)

    def add(self, policy: Policy) -> None:
        """Takes the requests of a policy from now on."""
        for route in ROUTES:
            endpoint = _Endpoint(self._data(policy, route))
            self._endpoints |= dict.fromkeys(self._paths(route, policy), endpoint)
            self.body_limit = max(self.body_limit, *(policy.body_limit(route, codec) for codec in (JSON, MSGPACK)))
        predict = _Endpoint(self._predict(policy))
        self._endpoints |= {path.encode(): predict for path in predict_paths(policy.name)}
        if self._sessions.can_step_at_once:
            self._sessions_of |= dict.fromkeys(self._paths(BEGIN, policy), policy)

    def _gathering(self, policy: Policy) -> Gathering | None:
        """What takes its requests, and those that are read alike; None where each is read by itself."""
        decoder = policy.typed_decoder.rows
        if decoder is None or not policy.templates["action", False].names:
            return None
        return self._gatherings.setdefault(decoder, Gathering(self.service, policy, decoder))

    def _data(self, policy: Policy, name: str) -> Callable[[Codec, Codec], Route]:
        """Returns what makes the data route of that name in two codecs."""
        counted = self._metrics.data(policy.name, name)
        gathering = self._gathering(policy) if name == "action" else None

        def route(reads: Codec, writes: Codec) -> Route:
            made = data_route(self.service, policy, name, counted, reads, writes)
            if gathering is None or reads is not JSON or writes is not JSON:
                return made
            return made._replace(gathers=partial(gathering.takes, policy))

        return route

    def _predict(self, policy: Policy) -> Callable[[Codec, Codec], Route]:
        """Returns what makes the route of predict requests: always the same one, when it is first asked for."""

        @functools.cache
        def route() -> Route:
            parser = PredictParser(self.service.parser, policy)
            return predict_route(self.service, parser, self._metrics.data(policy.name, PREDICT))

        return lambda _reads, _writes: route()

    def _paths(self, route: str, policy: Policy) -> list[bytes]:
        """Returns the paths of a route of the policy; the default policy has two."""
        own, default = data_paths(route, policy.name)
        return [path.encode() for path in ([own, default] if policy.name == self.service.default else [own])]

    def route(self, path: bytes, headers: Headers) -> Route | None:
        """Returns the route of a POST with these headers (names in lower case); None where the framework answers it."""
        endpoint = self._endpoints.get(path) or self._session_endpoint(path)
        if endpoint is None:
            return self._infer_route(path, headers)
        length, media, accept, bearer = -1, b"", b"", b""
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type":
                media = media or value
            elif name == b"accept":
                accept = accept or value
            elif name == b"authorization":
                bearer = bearer or value
            elif name in self._for_framework:
                return self._timed_route(path, headers) if name == SERVER_TIMING else None
        if not 0 <= length <= self.body_limit:
            return None
        route = endpoint.routes.get((media, accept)) or endpoint.route(media, accept)
        if route is not None and length > route.large.limit:
            return None
        if self._token and not check_bearer(bearer.decode("latin-1"), self._token):
            return None  # the framework says what is wrong
        return route

    def _timed_route(self, path: bytes, headers: Headers) -> Route | None:
        """Returns the route of a request with the header Server-Timing, as `route` does."""
        route = FastPath.route(self, path, [(name, value) for name, value in headers if name != SERVER_TIMING])
        return with_header(route) if route is not None and is_asked(headers) else route

    def _infer_route(self, path: bytes, headers: Headers) -> Route | None:
        """Returns the route of a request of the Open Inference Protocol, as `route` does."""
        endpoint = self._inferring.get(path) or self._infer_endpoint(path)
        if endpoint is None:
            return None
        length, bearer, json_length = -1, b"", b""
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"authorization":
                bearer = bearer or value
            elif name == JSON_LENGTH:
                if json_length or not value.isdigit():
                    return None
                json_length = value
            elif name in self._for_framework or name == b"x-forwarded-for":
                return self._timed_route(path, headers) if name == SERVER_TIMING else None
        route = endpoint.route(json_length)
        if not 0 <= length <= route.large.limit:
            return None
        if self._token and not check_bearer(bearer.decode("latin-1"), self._token):
            return None
        return route

    def _infer_endpoint(self, path: bytes) -> _InferEndpoint | None:
        """Makes the endpoint of a model's infer requests; None where the path is none of theirs."""
        model = model_of_path(path)
        try:
            found = self._models.model(model) if model else None
        except PolicyServerError:
            found = None  # the framework says what is wrong
        if found is None:
            return None
        return self._inferring.setdefault(path, _InferEndpoint(partial(found.route, self._metrics)))

    def _step_route(self, policy: Policy, id_: str, reads: Codec, writes: Codec) -> Route:
        sessions = self._sessions

        def at_once(body: bytes) -> PendingRequest | Answer | None:
            request = sessions.stepping_at_once(policy, reads, body)
            return None if request is None else sessions.step_of(policy, id_, writes, request)

        large = Large(
            self.service,
            policy.body_limit(STEP, reads),
            at_once,
            partial(sessions.stepping, policy, reads),
            partial(sessions.step_of, policy, id_, writes),
        )
        read = partial(sessions.step_at_once, policy, id_, reads, writes)
        return Route(read, writes, self._metrics.data(policy.name, STEP), large)

    def _session_endpoint(self, path: bytes) -> _Endpoint | None:
        """Returns the endpoint of a session's steps; None where the path is none of theirs."""
        above, _, end = path.rpartition(b"/")
        root, _, id_ = above.rpartition(b"/")
        policy = self._sessions_of.get(root)
        if end != b"action" or policy is None or b"%" in id_:
            return None
        return _Endpoint(partial(self._step_route, policy, id_.decode("latin-1")))
