"""Models of the Open Inference Protocol over the policies: an infer request → the pending request of our own route.

The fast path and the framework have the same `Route` answer; a request of a sequence is a step of a session.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from app.api.foreign import AwaitedReply, ForeignCycle
from app.api.request_cycle import Large, Route
from app.batching.rule import INITIAL_STATE, Result
from app.batching.timing import Timing, timing_of_task
from app.dialects.calls import ForeignRequest, Reply, codec_of, outputs_of_step, request_of
from app.dialects.open_inference import Model, check_outputs, function_in
from app.dialects.open_inference_answer import Form
from app.dialects.open_inference_body import BodyReader, Call
from app.errors import DoesNotFit, Problem, SequenceNotStarted, UnknownSession
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, PendingRequest
from app.inference.response import ResponseTemplates, action_templates
from app.inference.service import Service
from app.inputs.arrays import ArrayReader
from app.inputs.options import read_options
from app.metrics import Metrics
from app.sessions.record import Answer
from app.sessions.sessions import Sessions
from app.versions.lease import LoadedVersion
from app.wire.codecs import JSON, MSGPACK
from app.wire.limits import SHORT_BODY_BYTES, SMALL_BYTES
from app.wire.tensors import Arrays
from saver.artifact import leaves

# The header with the length of the JSON in a body, in lower case.
JSON_LENGTH = b"inference-header-content-length"
_BEFORE, _AFTER = b"/v2/models/", b"/infer"


def model_of_path(path: bytes) -> str:
    """Returns the model that infer requests to a path ask; "" where the path is of another kind, or escaped further."""
    if not path.startswith(_BEFORE) or not path.endswith(_AFTER):
        return ""
    name = path[len(_BEFORE) : -len(_AFTER)].replace(b"%3A", b":").replace(b"%3a", b":")
    return "" if b"/" in name or b"%" in name or b"?" in name else name.decode("latin-1")


class SequenceCall(NamedTuple):
    """A request of a sequence, to be answered by a session, in a task. `timing`: where its times are noted, if so."""

    model: ServedModel
    call: Call
    timing: Timing | None = None

    def timed(self, timing: Timing) -> SequenceCall:
        """Has its times noted."""
        return self._replace(timing=timing)

    async def answer(self, client: str) -> Reply:
        """Does as `outputs` does, and writes the answer."""
        return self.call.form.reply(*await self.outputs(client))

    async def outputs(self, client: str) -> tuple[Arrays, str, int]:
        """Starts, steps or ends the session; returns the outputs that are wanted, the version and its train step.

        Raises:
          SequenceNotStarted: there is no such session.
          DoesNotFit, SessionConflict, Overloaded, …: as `Sessions` does.
        """
        call, sessions, policy = self.call, self.model.sessions, self.model.model.policy
        if self.timing is not None:
            timing_of_task.set(self.timing)
        step = call.sequence
        assert step is not None
        if step.start:
            reads = codec_of({**call.fields, "id": step.id}, call.options)
            _, answer = await sessions.begin(policy, reads, MSGPACK, b"", client)
        else:
            try:
                answer = await sessions.step(policy, step.id, codec_of(call.fields, call.options), MSGPACK, b"")
            except UnknownSession as error:
                raise SequenceNotStarted(f"sequence {step.id[:200]!r} has to be started: {error}") from None
        if step.end:
            await sessions.end(policy, step.id, None)
        decoded = MSGPACK.decode(answer.body)
        outputs = outputs_of_step(policy, decoded)
        names = check_outputs(call.form.names, tuple(outputs))
        return {name: outputs[name] for name in names}, decoded["version"], decoded["train_step"]


class InferCycle(ForeignCycle):
    """One infer request."""

    def _put(self, service: Service, pending: Any, now: float) -> None:
        if type(pending) is SequenceCall:
            self.waiting = asyncio.get_running_loop().create_task(self._follow(pending))
        else:
            super()._put(service, pending, now)

    async def _follow(self, request: SequenceCall) -> None:
        try:
            reply = await request.answer(cast(Any, self._receiver).client())
        except Exception as error:
            self.set_exception(error)
        else:
            self.answer(reply)


class AwaitedInference(AwaitedReply):
    """Takes the answer of an `InferCycle` for an endpoint. `client`: see `AnswerWriter.client`."""

    def __init__(self, client: str) -> None:
        super().__init__()
        self._client = client

    def client(self) -> str:
        """See `AnswerWriter`."""
        return self._client


class ServedModel:
    """A model with all that answers its requests."""

    def __init__(self, model: Model, service: Service, sessions: Sessions) -> None:
        self.model = model
        self.sessions = sessions
        self._service = service
        self._reader = BodyReader(model)
        self._arrays = ArrayReader(model.policy.spec, model.policy.reader.rows_limit)
        self._has_strings = any(leaf.dtype == "string" for leaf in model.leaves.values())

    def route(self, metrics: Metrics, json_length: int | None, loaded: LoadedVersion[Any] | None = None) -> Route:
        """Makes the route of requests whose JSON has this length; None: no raw tensors follow it.

        `loaded`: the version that has to answer; None takes the one that serves.
        """
        policy, function = self.model.policy, self.model.function
        read = partial(self._read, json_length, loaded)
        large = Large(
            self._service,
            policy.body_limit(function, JSON),
            partial(self._at_once, json_length, loaded),
            partial(self._read, json_length, loaded, learns=False),
            lambda pending: pending,
        )
        counts = metrics.data(policy.name, f"v2/{function}")
        return Route(cast(Any, read), JSON, counts, large, InferCycle)

    def _read(
        self, json_length: int | None, loaded: LoadedVersion[Any] | None, body: bytes, learns: bool = True
    ) -> ForeignRequest | SequenceCall:
        pending = self._known(json_length, body)
        if pending is None:
            call = self._reader.read(body, json_length)
            if call.sequence is not None:
                return self.sequence(call, loaded)
            request = self.request(call)
            pending = _foreign(request, call.form)
            if learns:
                self._reader.learn(body, json_length, call, request.job)
        if loaded is not None:
            pending.job.loaded = loaded
        return pending

    def _known(self, json_length: int | None, body: bytes) -> ForeignRequest | None:
        found = self._reader.known(body, json_length)
        if found is None:
            return None
        kept, arrays = found
        inputs = self._arrays.read(arrays, kept.rows)
        if inputs is None:
            return None
        policy = self.model.policy
        request = self._service.parser.request(policy, kept.function, inputs, kept.options, policy.templates)
        return _foreign(request, kept.form)

    def _at_once(
        self, json_length: int | None, loaded: LoadedVersion[Any] | None, body: bytes
    ) -> PendingRequest | Answer | None:
        """Reads a large body where that takes a few milliseconds: one of raw tensors of numbers."""
        if json_length is None or json_length > SMALL_BYTES or len(body) > SHORT_BODY_BYTES or self._has_strings:
            return None
        return cast(PendingRequest, self._read(json_length, loaded, body))

    def request(self, call: Call) -> InferenceRequest:
        """Returns the pending request of a call; raises as `RequestParser` does."""
        model = self.model
        return request_of(self._service.parser, model.policy, model.function, call.fields, call.options)

    def sequence(self, call: Call, loaded: LoadedVersion[Any] | None) -> SequenceCall:
        """Returns the step of a session that a call is.

        The outputs that it wants are checked now: the session must not be further than its client knows.

        Raises:
          DoesNotFit: the model has none, or `loaded`, a version that is named, would have to answer; or an output is
            wanted that the answer of a session does not have, as its policy state.
          Unsupported: an option that the policy cannot honour.
        """
        if loaded is not None:
            expected = "a model without a version: each sequence keeps to its own"
            raise DoesNotFit([Problem("parameters.sequence_id", f"is for version {loaded.version.name}", expected)])
        if self.model.name != self.model.policy.name:
            expected = f"model {self.model.policy.name} for sequences"
            raise DoesNotFit([Problem("parameters.sequence_id", f"is for actions, not {self.model.name}", expected)])
        if call.form.names is not None:
            options = read_options(call.options)
            function = self._service.parser.function(self.model.policy, "action", options)
            check_outputs(call.form.names, self._templates_of_steps[function, options.log_prob].names)
        return SequenceCall(self, call)

    @functools.cached_property
    def _templates_of_steps(self) -> ResponseTemplates:
        return action_templates(self.model.policy.spec, self.model.policy.serving, with_state=False)


class Models:
    """The models by name, made as they are asked for. `service`: what answers them."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self.service = service
        self._sessions = sessions
        self._models: dict[str, ServedModel] = {}

    def model(self, name: str) -> ServedModel:
        """Returns the model of that name.

        Raises:
          UnknownPolicy: there is none.
          NotReady: its policy cannot be opened.
          Unsupported: its policy has no such function.
        """
        found = self._models.get(name)
        if found is None:
            policy, function = function_in(name)
            found = ServedModel(Model.of(self.service.policy(policy), function), self.service, self._sessions)
            self._models[name] = found
        return found

    def all_of(self, policy: Policy) -> list[ServedModel]:
        """Returns the models of a policy: those of the functions that it has."""
        found = [self.model(policy.name)]
        if "distribution" in policy.serving.signatures:
            found.append(self.model(f"{policy.name}:distribution"))
        if any(leaves(policy.spec.initial_state)):
            found.append(self.model(f"{policy.name}:{INITIAL_STATE}"))
        return found


def _foreign(request: InferenceRequest, form: Form) -> ForeignRequest:
    names = check_outputs(form.names, request.template.names)
    return ForeignRequest.of(request, partial(_reply, form, names))


def _reply(form: Form, names: Sequence[str], result: Result) -> Reply:
    outputs: Arrays = result.outputs
    return form.reply({name: outputs[name] for name in names}, result.version, result.train_step)
