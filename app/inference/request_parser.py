"""The body of a data request → an inference request: which function answers it, on which inputs, in which form.

What cannot be asked of a policy is refused here. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import numpy as np

from app.batching.rule import INITIAL_STATE, Job, Result
from app.engine.noise import fresh_noise, seeded_noise
from app.errors import DoesNotFit, NotJson, Problem, Unsupported
from app.inference.policy import Policy
from app.inference.response import ResponseTemplate, ResponseTemplates
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.wire.codecs import JSON, Codec
from app.wire.limits import FEW_NUMBERS, SHORT_BODY_BYTES, check_answer
from app.wire.msgpack_body import decode_tensors
from app.wire.tensors import Arrays, show
from saver.artifact import LOG_PROB


class PendingRequest(Protocol):
    """A request to a policy, and how its answer is written: an `InferenceRequest`, or a step of a session."""

    @property
    def policy(self) -> Policy:
        """The policy that is asked."""

    @property
    def job(self) -> Job:
        """The job to submit to the policy's batcher."""

    @property
    def timeout_s(self) -> float | None:
        """The seconds that the request allows; None leaves it to the server."""

    @property
    def numbers(self) -> int:
        """The count of numbers in the answer."""

    def written(self, result: Result, codec: Codec) -> Any:
        """Writes the answer as it is to be stored and sent; may be called in another thread."""

    def kept(self, written: Any) -> bytes:
        """Stores what was written, where it is stored at all, and returns the body of the answer."""

    def answer(self, result: Result, codec: Codec) -> bytes:
        """Writes and stores, and returns the body of the answer."""


class InferenceRequest(msgspec.Struct, frozen=True):
    """A request that was understood: the job that answers it, and the form of its answer.

    `timeout_s`: what the request allows; None leaves it to the server.
    """

    policy: Policy
    job: Job
    batched: bool
    template: ResponseTemplate
    timeout_s: float | None = None

    @property
    def numbers(self) -> int:
        """The count of numbers in the answer."""
        return self.job.rows * self.template.numbers

    def written(self, result: Result, codec: Codec) -> bytes:
        """See `PendingRequest`."""
        return self.answer(result, codec)

    def kept(self, written: bytes) -> bytes:
        """See `PendingRequest`."""
        return written

    def answer(self, result: Result, codec: Codec) -> bytes:
        """Returns the body of the answer."""
        if codec is JSON:
            return self.template.json(result, self.batched)
        return codec.encode(self.template.structure(result, self.batched))


class LargeRequest(InferenceRequest, frozen=True):
    """A request whose answer takes long to write."""


class RequestParser:
    """Reads the bodies of data requests; one for the whole server.

    `readers`: by the route's name. They raise:
      NotJson: the body is none of the codec's.
      DoesNotFit: the input is not what the spec says.
      Unsupported: an option that this policy's export cannot honour.
    """

    def __init__(self, rows_limit: int) -> None:
        self._rows_limit = rows_limit
        self._generator = np.random.default_rng()
        self._functions = {"action": function_of, "distribution": _distribution}
        self.readers: dict[str, Callable[[Policy, Codec, bytes], InferenceRequest]] = {
            **{name: partial(self._read, function) for name, function in self._functions.items()},
            INITIAL_STATE: self.initial_state,
        }

    def initial_state(self, policy: Policy, codec: Codec, body: bytes) -> InferenceRequest:
        """Reads {"batch_size": n}; without, one unbatched state is asked for. Raises as `readers` do."""
        fields = _decoded(policy, codec, body)
        unknown = sorted(fields.keys() - {"batch_size"})
        if unknown:
            raise DoesNotFit([Problem(unknown[0], "is no field of this request", "batch_size")])
        size = fields.get("batch_size")
        if size is not None and (type(size) is not int or not 1 <= size <= self._rows_limit):
            raise DoesNotFit([Problem("batch_size", show(size), f"an integer from 1 to {self._rows_limit}, or none")])
        template = policy.templates[INITIAL_STATE, False]
        check_answer(size or 1, template.numbers, "batch_size")
        kind = LargeRequest if (size or 1) * template.numbers > FEW_NUMBERS else InferenceRequest
        return kind(policy, Job(INITIAL_STATE, {}, size or 1), size is not None, template)

    def at_once(self, policy: Policy, route: str, codec: Codec, body: bytes) -> InferenceRequest | None:
        """Reads a large body where that takes a few milliseconds; returns None where it may take longer."""
        if len(body) > SHORT_BODY_BYTES:
            return None
        if codec is JSON:
            decoded = policy.typed_decoder.read_known(body)
            if decoded is None:
                return None
            inputs, options = decoded
        else:
            fields = decode_tensors(body)
            if fields is None:
                return None
            options = policy.reader.take_options(fields)
            inputs = policy.reader.read(fields)
        return self.request(policy, self._functions[route](policy, options), inputs, options, policy.templates)

    def large(self, policy: Policy, route: str, codec: Codec, body: bytes) -> InferenceRequest:
        """Reads a large body, in a thread of its own; raises as `readers` do."""
        function_of = self._functions[route]
        decoded = policy.typed_decoder.read_new(body) if codec is JSON and len(body) <= SHORT_BODY_BYTES else None
        if decoded is not None:
            inputs, options = decoded
        else:
            fields = _decoded(policy, codec, body)
            options = policy.reader.take_options(fields)
            inputs = policy.reader.read(fields)
        return self.request(policy, function_of(policy, options), inputs, options, policy.templates)

    def _read(
        self, function_of: Callable[[Policy, Options], str], policy: Policy, codec: Codec, body: bytes
    ) -> InferenceRequest:
        typed = policy.typed_decoder
        decoded = typed.read(body) if codec is JSON else typed.read_binary(body)
        if decoded is not None:
            inputs, options = decoded
            function = function_of(policy, options)
        else:
            fields = _decoded(policy, codec, body)
            options = policy.reader.take_options(fields)
            function = function_of(policy, options)
            inputs = policy.reader.read(fields)
        return self.request(policy, function, inputs, options, policy.templates)

    def function(self, policy: Policy, route: str, options: Options) -> str:
        """Returns the function that answers `action` or `distribution` with these options; raises Unsupported."""
        return self._functions[route](policy, options)

    def request(
        self,
        policy: Policy,
        function: str,
        inputs: Inputs,
        options: Options,
        templates: ResponseTemplates,
        step: int = 0,
    ) -> InferenceRequest:
        """Returns the request to a function; `step`: of an episode, so that a seed gives each its own noise."""
        template = templates[function, options.log_prob]
        kind = InferenceRequest
        if inputs.rows > 1 and inputs.rows * template.numbers > FEW_NUMBERS:
            check_answer(inputs.rows, template.numbers, "observation")
            kind = LargeRequest
        if inputs.outside_bounds:
            policy.metrics.outside_bounds(inputs.outside_bounds)
        arrays = inputs.arrays
        if function == "sample":
            arrays = arrays | self._noise(policy, inputs.rows, options.seed, step)
        job = Job(function, arrays, inputs.rows, inputs.needs_state, options.min_train_step, options.seed is not None)
        if options.version is not None:
            job.loaded = policy.arms.asked(options.version)
        return kind(
            policy,
            job,
            inputs.batched,
            template,
            None if options.timeout_ms is None else options.timeout_ms / 1000,
        )

    def _noise(self, policy: Policy, rows: int, seed: int | None, step: int) -> Arrays:
        if seed is None:
            return fresh_noise(policy.serving.noise, rows, self._generator)
        return seeded_noise(policy.serving.noise, rows, seed, step)


def _decoded(policy: Policy, codec: Codec, body: bytes) -> dict[str, Any]:
    try:
        return codec.decode_any(body, policy.reader.most_keys)
    except NotJson as error:
        raise (policy.reader.hint.no_object(error) if error.is_json else error) from None


def function_of(policy: Policy, options: Options) -> str:
    """Returns the function that honours the options of `action`.

    Raises:
      Unsupported: the policy has none; names the option and the reason.
    """
    if options.mode is None and options.seed is None and not options.log_prob:
        return "action"
    function = "greedy" if options.mode == "greedy" else "sample"
    asked = "mode" if options.mode is not None else "seed" if options.seed is not None else LOG_PROB
    _require(policy, function, f"option {asked}: policy {policy.name} has no {function} action")
    if options.log_prob and (function, True) not in policy.templates:
        reason = policy.serving.unavailable.get(LOG_PROB, f"not for {function} actions")
        raise Unsupported(f"option {LOG_PROB}: policy {policy.name} has none: {reason}")
    return function


def _distribution(policy: Policy, options: Options) -> str:
    _require(policy, "distribution", f"policy {policy.name} has no distribution")
    for name, asked in (("mode", options.mode), ("seed", options.seed), (LOG_PROB, options.log_prob or None)):
        if asked is not None:
            raise Unsupported(f"option {name} is for action: a distribution is not sampled")
    return "distribution"


def _require(policy: Policy, function: str, otherwise: str) -> None:
    if function not in policy.serving.signatures:
        raise Unsupported(f"{otherwise}: {policy.serving.unavailable.get(function, 'not exported')}")
