"""The calls of the Open Inference Protocol over gRPC, on the same models, queue, batches and sessions as over HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any, NamedTuple

import grpc

from app import __version__
from app.api.access import client_at, require_bearer
from app.api.audit import log_call
from app.api.connection_limits import UnfinishedRequests
from app.api.grpc_health import until
from app.api.grpc_messages import InferMessage, counted, parsed, reader_of
from app.api.models import Models, ServedModel
from app.api.problems import detail_of, kind_of, status_of
from app.dialects.open_inference import EXTENSIONS, Model, check_outputs
from app.dialects.open_inference_body import Call
from app.dialects.open_inference_grpc import call_in, response_of
from app.dialects.open_inference_messages import INFERENCE, Messages
from app.dialects.open_inference_metadata import config_of, index_of, loaded_of, metadata_of, statistics_of
from app.errors import (
    BodyTooLarge,
    Forbidden,
    NotReady,
    Refusal,
    Unauthorized,
    UnknownPolicy,
    UnknownVersion,
    Unsupported,
)
from app.inputs.options import LONGEST_TIMEOUT_MS, OPTION_FIELDS
from app.metrics import Metrics
from app.rpc.messages import AdminCall
from app.settings import Settings, variable
from app.versions.lease import LoadedVersion
from app.wire.codecs import MSGPACK
from app.wire.limits import SMALL_BYTES
from app.wire.tensors import Arrays

_CODE = grpc.StatusCode
# By the HTTP statuses of the one table.
CODES = {
    400: _CODE.INVALID_ARGUMENT,
    401: _CODE.UNAUTHENTICATED,
    403: _CODE.PERMISSION_DENIED,
    404: _CODE.NOT_FOUND,
    408: _CODE.DEADLINE_EXCEEDED,
    409: _CODE.FAILED_PRECONDITION,
    413: _CODE.RESOURCE_EXHAUSTED,
    414: _CODE.INVALID_ARGUMENT,
    415: _CODE.INVALID_ARGUMENT,
    422: _CODE.INVALID_ARGUMENT,
    429: _CODE.RESOURCE_EXHAUSTED,
    431: _CODE.RESOURCE_EXHAUSTED,
    499: _CODE.CANCELLED,
    500: _CODE.INTERNAL,
    501: _CODE.UNIMPLEMENTED,
    503: _CODE.UNAVAILABLE,
    504: _CODE.DEADLINE_EXCEEDED,
}


# Those that everybody may make, and the one that needs the admin token.
_WITHOUT_DATA_TOKEN = ("ServerLive", "ServerReady", "RepositoryModelLoad")


class WorkerParts(NamedTuple):
    """What calls share with the rest of a worker. `note`: called with each call of an admin's."""

    models: Models
    unfinished: UnfinishedRequests
    metrics: Metrics
    settings: Settings
    note: Callable[[AdminCall], None]


class InferenceCalls:
    """Answers the calls of one worker. `stopping`: set when the server stops, which ends streams."""

    def __init__(self, parts: WorkerParts, messages: Messages, stopping: asyncio.Event) -> None:
        self._models, self._unfinished, self._metrics, self._settings, self._note = parts
        self._service = parts.models.service
        self._messages = messages
        self._stopping = stopping

    def handler(self) -> Any:
        """Makes the handler of the service; calls that it does not have are UNIMPLEMENTED."""
        unary: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "ModelInfer": self._infer,
        }
        handlers = {name: self._unary(name, call) for name, call in unary.items()}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            InferMessage,
            self._messages.named("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(INFERENCE, handlers)

    def _unary(self, name: str, call: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def answered(request: Any, context: Any) -> Any:
            try:
                if name not in _WITHOUT_DATA_TOKEN:
                    self._check_token(context)
                return await call(_readable(request), context)
            except Exception as error:
                await context.abort(CODES[status_of(error)], detail_of(error))

        asks = InferMessage if name == "ModelInfer" else reader_of(self._messages.named(f"{name}Request"))
        return grpc.unary_unary_rpc_method_handler(
            answered, asks, self._messages.named(f"{name}Response").SerializeToString
        )

    def _check_token(self, context: Any) -> None:
        if self._settings.data_token:
            require_bearer(_authorization(context), self._settings.data_token)

    def _response(self, message: str, /, **fields: Any) -> Any:
        return self._messages.named(message)(**fields)

    async def _live(self, _: Any, __: Any) -> Any:
        return self._response("ServerLiveResponse", live=True)

    async def _ready(self, _: Any, __: Any) -> Any:
        return self._response("ServerReadyResponse", ready=not self._service.failed)

    async def _model_ready(self, request: Any, _: Any) -> Any:
        try:
            await self._asked(request.name, request.version)
        except (UnknownPolicy, UnknownVersion, NotReady):
            return self._response("ModelReadyResponse", ready=False)
        return self._response("ModelReadyResponse", ready=True)

    async def _metadata(self, _: Any, __: Any) -> Any:
        return self._response(
            "ServerMetadataResponse", name="policy_server", version=__version__, extensions=EXTENSIONS
        )

    async def _model_metadata(self, request: Any, _: Any) -> Any:
        served, _ = await self._asked(request.name, request.version)
        return self._response("ModelMetadataResponse", **metadata_of(served.model))

    async def _config(self, request: Any, _: Any) -> Any:
        served, _ = await self._asked(request.name, request.version)
        return self._response("ModelConfigResponse", config=config_of(served.model))

    async def _statistics(self, request: Any, _: Any) -> Any:
        if request.name:
            found = [(await self._asked(request.name, request.version))[0]]
        else:
            found = [model for policy in self._service.policies for model in self._models.all_of(policy)]
        statistics = statistics_of([served.model for served in found], self._metrics.samples)
        return self._response("ModelStatisticsResponse", **statistics)

    async def _index(self, request: Any, _: Any) -> Any:
        models = index_of(self._service.describe_all(), request.ready)
        return self._response("RepositoryIndexResponse", models=models)

    async def _load(self, request: Any, context: Any) -> Any:
        started, status = perf_counter(), 500
        try:
            self._check_admin(context)
            policy = self._service.policy(request.model_name)
            if request.parameters:
                raise Unsupported("parameters: a policy is loaded as its folder has it")
            await policy.manager.reload(None)
            status = 200
        except Exception as error:
            status = status_of(error)
            raise
        finally:
            call = "gRPC RepositoryModelLoad", ascii(request.model_name[:100])
            self._note(log_call(call, _host(context), status, started))
        return self._response("RepositoryModelLoadResponse")

    def _check_admin(self, context: Any) -> None:
        token = self._settings.admin_token
        if not token:
            raise Forbidden(f"the admin calls are closed: set {variable('admin_token')} and start again")
        require_bearer(_authorization(context), token)

    async def _asked(self, name: str, version: str) -> tuple[ServedModel, LoadedVersion[Any] | None]:
        served = self._models.model(name or self._service.default)
        return served, await loaded_of(served.model.policy, version) if version else None

    async def _infer(self, request: InferMessage, context: Any) -> Any:
        started, policy, function = perf_counter(), "", "action"
        status, kind = 499, "client-gone"
        try:
            if request.refusal is not None:
                raise request.refusal
            served, loaded = await self._asked(request.model_name, request.model_version)
            policy, function = served.model.policy.name, served.model.function
            with counted(self._unfinished, len(request.body)):
                outputs, version, train_step = await self._answered(served, loaded, request.body, context)
            status, kind = 200, ""
            return response_of(self._messages, served.model, request.id, outputs, version, train_step)
        except Exception as error:
            status, kind = status_of(error), kind_of(error)
            raise
        finally:
            if kind:
                self._metrics.data(policy, f"grpc/{function}").failed(kind)
            self._metrics.data(policy, f"grpc/{function}").answered(status, perf_counter() - started)

    async def _answered(
        self, served: ServedModel, loaded: LoadedVersion[Any] | None, body: bytes, context: Any
    ) -> tuple[Arrays, str, int]:
        size, limit = len(body), served.model.policy.body_limit(served.model.function, MSGPACK)
        if size > limit + SMALL_BYTES:
            raise BodyTooLarge(f"the message has {size} bytes, at most {limit + SMALL_BYTES} are read")
        if size <= SMALL_BYTES:
            call = self._call_in(served.model, body)
        else:
            call = await self._service.offload.run(size, self._call_in, served.model, body)
        call = self._in_time(call, context)
        if call.sequence is not None:
            return await served.sequence(call, loaded).outputs(client_at(_host(context)))
        pending = served.request(call)
        names = check_outputs(call.form.names, pending.template.names)
        if loaded is not None:
            pending.job.loaded = loaded
        result = await self._service.answered(pending)
        return {name: result.outputs[name] for name in names}, result.version, result.train_step

    def _call_in(self, model: Model, body: bytes) -> Call:
        return call_in(model, parsed(self._messages.named("ModelInferRequest"), body))

    def _in_time(self, call: Call, context: Any) -> Call:
        """Returns the call with the deadline that the client's own one leaves, where that is sooner."""
        left_s = context.time_remaining()
        if left_s is None or _has_no_options(call):
            return call
        given = call.options.get("timeout_ms", self._settings.deadline_ms)
        left_ms = max(1, min(LONGEST_TIMEOUT_MS, math.ceil(left_s * 1000)))
        is_wrong = OPTION_FIELDS["timeout_ms"].problem("options.timeout_ms", given) is not None
        if is_wrong or given <= left_ms:  # what is wrong is refused where all options are read
            return call
        return Call(call.fields, {**call.options, "timeout_ms": left_ms}, call.form, call.sequence)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers the requests of a stream one after the other; an error is an answer, and the stream goes on."""
        response = self._messages.named("ModelStreamInferResponse")
        try:
            self._check_token(context)
        except Unauthorized as error:
            await context.abort(CODES[status_of(error)], detail_of(error))
        async for request in until(self._stopping, requests):
            try:
                answer = response(infer_response=await self._infer(request, context))
            except Exception as error:
                answer = response(error_message=detail_of(error))
                answer.infer_response.id = request.id
            yield answer


def _readable(request: Any) -> Any:
    """Returns a message; raises what was found in its place."""
    if isinstance(request, Refusal):
        raise request
    return request


def _has_no_options(call: Call) -> bool:
    """Returns whether a call has no options, as one for an initial state."""
    return call.fields.keys() == {"batch_size"}


def _authorization(context: Any) -> str:
    return next((str(value) for name, value in context.invocation_metadata() or () if name == "authorization"), "")


def _host(context: Any) -> str:
    """Returns the address in gRPC's name of the peer: ipv4:127.0.0.1:50000, ipv6:%5B::1%5D:50000."""
    kind, _, rest = context.peer().partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    return host if kind in ("ipv4", "ipv6") else ""
