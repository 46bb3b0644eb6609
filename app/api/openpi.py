"""OpenPI's clients: a WebSocket on which each message is a step of one episode, answered as our own route does.

The policy state stays with the connection; it is gone with it, after a reset, and where another session begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs, unquote
from weakref import WeakSet

import msgspec
import numpy as np
from fastapi import Response
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from app.api.access import check_api_key
from app.api.http_parser import RequestHead
from app.api.problems import detail_of, status_of
from app.api.request_cycle import Large, Receiver, RequestCycle, Route
from app.api.websocket import WebSocket
from app.api.writer import AnswerWriter
from app.batching.rule import Result
from app.dialects.calls import ForeignRequest, Reply
from app.dialects.openpi import Kind, MessageReader, metadata, reset_answer
from app.dialects.openpi_answer import ResultWriter
from app.errors import DoesNotFit, Forbidden, Malformed, NotMsgpack, NotWebSocket, Problem, Unauthorized, WeightsGone
from app.experience.episode_writer import EpisodeWriter
from app.experience.writing import StepWriters
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, function_of
from app.inference.service import Service
from app.inputs.arrays import ArrayReader
from app.inputs.defaults import FIRST, default_leaves
from app.inputs.names import top_level
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.metrics import Metrics
from app.sessions.record import Answer
from app.settings import Settings
from app.wire.codecs import MSGPACK
from app.wire.limits import SHORT_BODY_BYTES
from app.wire.tensors import Arrays, show
from saver.artifact import Leaf, leaves

_BEFORE, _AFTER = "/v1/policies/", "/openpi"
ROUTE = "openpi"
_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: %b\r\n\r\n"
)


class OpenPi:
    """Which requests become OpenPI's WebSockets, and of which policy. `writers`: write the steps that are recorded."""

    def __init__(self, service: Service, metrics: Metrics, settings: Settings, writers: StepWriters) -> None:
        self._service, self._metrics, self._writers = service, metrics, writers
        self._token, self._at_root = settings.data_token, settings.openpi
        self._idle_s = settings.sessions_idle_s
        self._keeping: WeakSet[Episode] = WeakSet()
        self._origins = {origin.strip() for origin in settings.cors_origins.split(",")} - {""}

    def takes(self, head: RequestHead) -> bool:
        """See `WebSockets`."""
        wishes = [value.strip().lower() for name, value in head.upgrade or () if name == b"upgrade"]
        return wishes == [b"websocket"] and self._policy_of(head.target) is not None

    def accept(self, head: RequestHead, connection: AnswerWriter) -> WebSocket:
        """See `WebSockets`.

        Raises:
          Unauthorized: no token, or a wrong one.
          UnknownPolicy, NotReady: as `Service.policy` does.
          NotWebSocket: the handshake lacks something.
          Forbidden: a page of another origin asks.
          Malformed: `weights` is none of those that there are.
        """
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.upgrade or ()])
        if self._token and not check_api_key(next(iter(headers.get_all("authorization")), ""), self._token):
            raise Unauthorized(
                "no token, or a wrong one: expected the header Authorization: Api-Key <token>, or Bearer"
            )
        policy = self._service.policy(self._policy_of(head.target))
        frames = ServerProtocol(max_size=policy.body_limit("action", MSGPACK), state=State.OPEN)
        try:
            accept, _, _ = frames.process_request(Request("/", headers, "GET", f"HTTP/{head.version}"))
        except InvalidHandshake as error:
            raise NotWebSocket(f"this is no handshake of a WebSocket: {error}") from None
        if head.length != 0:
            raise NotWebSocket("a handshake has no body")
        for origin in headers.get_all("origin"):
            if not self._origins & {"*", origin}:
                raise Forbidden(f"the origin {origin[:200]!r} is none that may call from a browser: see --cors-origins")
        keeps_weights = _keeps_weights(head.target)
        writer = self._writers.of(policy.name, policy.spec)
        records = None if writer is None else EpisodeWriter(writer)
        episode = Episode(self._service, policy, self._metrics, self._idle_s, keeps_weights, records)
        if keeps_weights:
            self._keeping.add(episode)
        accepted = _ACCEPTED % accept.encode()
        loop = asyncio.get_running_loop()
        return WebSocket(connection.server_state, loop, connection.shared, episode, frames, accepted)

    def keeps(self, policy: str, digest: str) -> bool:
        """Returns whether an episode needs this version of a policy until its end."""
        return any(episode.keeps(policy, digest) for episode in self._keeping)

    def _policy_of(self, target: bytes) -> str | None:
        path = unquote(target.partition(b"?")[0].decode("latin-1"))
        if path == "/":
            return self._at_root or None
        name = path[len(_BEFORE) : -len(_AFTER)]
        return name if path.startswith(_BEFORE) and path.endswith(_AFTER) and name and "/" not in name else None


class _Step(NamedTuple):
    """A step as it was asked for. `noise_step`: the one whose noise a seed gives it."""

    request: InferenceRequest
    options: Options
    begins: bool
    session_id: str | None
    noise_step: int


class Episode:
    """What one connection does with its policy.

    `idle_s`: as long as a session is kept. `keeps_weights`: every step is answered by the weights of the first one.
    `records`: where its steps are recorded.
    """

    def __init__(
        self,
        service: Service,
        policy: Policy,
        metrics: Metrics,
        idle_s: float,
        keeps_weights: bool = False,
        records: EpisodeWriter | None = None,
    ) -> None:
        self.idle_s = idle_s
        self._service, self._policy = service, policy
        self._reader = MessageReader(policy)
        self._step_type = _step_type_of(policy)
        self._state_names = _state_names(policy)
        self._state: Arrays | None = None
        self._arrays = ArrayReader(policy.spec, policy.reader.rows_limit)
        self._kind: Kind | None = None
        self._writer = ResultWriter()
        self._session_id: str | None = None
        self._seed: int | None = None
        self._step = 0
        self._keeps_weights = keeps_weights
        self._records = records
        # Of the version that the episode keeps, and whether it is not known yet which one that will be.
        self._digest: str | None = None
        self._is_beginning = False
        # What the answer under way changes: it may be written in another thread.
        self._go_on: Callable[[], None] | None = None
        limit = policy.body_limit("action", MSGPACK)
        large = Large(service, limit, self._at_once, self._read, lambda pending: pending)
        self._route = Route(cast(Any, self._read), MSGPACK, metrics.data(policy.name, ROUTE), large, cast(Any, None))

    def keeps(self, policy: str, digest: str) -> bool:
        """Returns whether the episode needs this version, or may turn out to: its first step is under way."""
        return self._policy.name == policy and (self._is_beginning or self._digest == digest)

    def close(self) -> None:
        """See `Talk`: needs no weights any more, however long it stays in memory."""
        self._digest, self._is_beginning = None, False

    def refused(self) -> None:
        """Goes on from the step before: the one under way is not answered."""
        self._is_beginning, self._go_on = False, None

    def answered(self) -> None:
        """Goes one step on, before the answer leaves."""
        go_on, self._go_on = self._go_on, None
        if go_on is not None:
            go_on()

    def greeting(self) -> bytes:
        """See `Talk`."""
        return metadata(self._policy, self._reader.inputs)

    def answer(self, message: bytes, is_text: bool, to: WebSocket) -> None:
        """See `Talk`."""
        cycle = MessageCycle(self._route, to, self.refused, self.answered)
        to.cycle = cycle
        if is_text:
            cycle.set_exception(NotMsgpack("a text message, expected a binary one: a msgpack map of the observation"))
        else:
            cycle.ask(self._service, message, to.loop.time())

    def _at_once(self, body: bytes) -> Any:
        return self._read(body) if len(body) <= SHORT_BODY_BYTES else None

    def _read(self, body: bytes) -> ForeignRequest | Answer:
        """Reads a message. Nothing of the episode changes before it is answered."""
        started = perf_counter()
        known = self._kind.read(body, self._arrays) if self._kind is not None else None
        if known is not None:
            return self._request(*known, self._step == 0, None, started)
        message, policy = self._reader.read(body), self._policy
        if message.resets:
            self._state, self._step, self._seed, self._session_id = None, 0, message.seed, message.session_id
            self._digest = None
            return Answer("", reset_answer(policy))
        begins = self._step == 0 or (message.session_id is not None and message.session_id != self._session_id)
        options = policy.reader.take_options(message.fields)
        inputs = policy.reader.read(message.fields)
        if message.session_id is None:
            self._kind = Kind.of(body, inputs, options)
        return self._request(inputs, options, begins, message.session_id, started)

    def _request(
        self, inputs: Inputs, options: Options, begins: bool, session_id: str | None, started: float
    ) -> ForeignRequest:
        """Returns the request of a step."""
        policy, step = self._policy, 0
        if options.seed is None and self._seed is not None:
            options, step = replace(options, seed=self._seed), 0 if begins else self._step
        function = function_of(policy, options)
        if begins and self._step_type is not None:
            name, leaf = self._step_type
            inputs.arrays.setdefault(name, np.full(inputs.rows, FIRST, leaf.storage))
        elif inputs.needs_state and self._state is not None:
            inputs = self._with_state(inputs, self._state)
        request = self._service.parser.request(policy, function, inputs, options, policy.templates, step)
        if self._keeps_weights:
            self._keep(request, begins)
        write = partial(self._written, _Step(request, options, begins, session_id, step), started)
        return ForeignRequest.of(request, write)

    def _keep(self, request: InferenceRequest, begins: bool) -> None:
        """Has the weights of the first step answer a step that is another one."""
        if begins or self._digest is None:
            self._is_beginning = True
            return
        request.job.loaded = self._policy.versions.find(self._digest)
        if request.job.loaded is None:
            raise WeightsGone("the weights that the episode started with are not kept here: reset it, or connect anew")

    def _written(self, step: _Step, started: float, result: Result) -> Reply:
        """Writes an answer. Nothing of the episode changes before that leaves: this may be another thread.

        Raises:
          DoesNotFit: the policy state is not finite then, and such inputs are refused.
        """
        # Copies: a view would keep the arrays of a whole batch.
        state = {name: np.array(result.outputs[output]) for output, name in self._state_names.items()}
        for array in state.values():
            self._policy.reader.check_state_after(array)

        request, options, begins, session_id, noise_step = step

        def go_on() -> None:
            self._state = state or None
            if self._is_beginning:
                self._digest, self._is_beginning = result.digest, False
            self._step = 1 if begins else self._step + 1
            self._session_id = self._session_id if session_id is None else session_id
            if self._records is not None:
                self._records.write(begins, self._session_id, options, request.job, result, noise_step)

        self._go_on = go_on
        took_ms = (perf_counter() - started) * 1000
        return Reply(b"", self._writer.write(request.template, result, request.batched, took_ms))

    def _with_state(self, inputs: Inputs, state: Arrays) -> Inputs:
        rows = len(next(iter(state.values())))
        if inputs.rows != rows:
            expected = f"{rows}, as in the step before: the episode goes on until it is reset"
            raise DoesNotFit([Problem("observation", f"rows: {inputs.rows}", expected)])
        return msgspec.structs.replace(inputs, arrays=inputs.arrays | state, needs_state=False)


class MessageCycle(RequestCycle):
    """One message, answered by a message: a text where it is refused, and `refused` is called then, else `answered`."""

    def __init__(
        self, route: Route, receiver: Receiver, refused: Callable[[], None], answered: Callable[[], None]
    ) -> None:
        super().__init__(route, receiver)
        self._refused, self._answered = refused, answered

    def _problem(self, error: Exception) -> Response:
        self._refused()
        return Response(detail_of(error), status_of(error))

    def answer(self, body: Any) -> None:
        """See `RequestCycle`."""
        self._end(200)
        self._answered()
        self._receiver.write_answer(b"", body.body if isinstance(body, Reply) else body)


def _keeps_weights(target: bytes) -> bool:
    """Returns whether the query asks for the weights of an episode's first step in all of it, as a session can."""
    asked = parse_qs(target.partition(b"?")[2].decode("latin-1")).get("weights", ["latest"])[-1]
    if asked not in ("latest", "episode"):
        raise Malformed(f"weights: {show(asked)}; expected latest or episode")
    return asked == "episode"


def _state_names(policy: Policy) -> dict[str, str]:
    """Returns the names of the policy state: as an output → as an input."""
    inputs = {path: leaf.name for path, leaf in leaves(top_level(policy.spec).get("policy_state", ()))}
    return {leaf.name: inputs[path] for path, leaf in leaves(policy.spec.state) if path in inputs}


def _step_type_of(policy: Policy) -> tuple[str, Leaf] | None:
    found = [(name, leaf) for name, (top, leaf) in default_leaves(policy.spec).items() if top == "step_type"]
    return found[0] if found else None
