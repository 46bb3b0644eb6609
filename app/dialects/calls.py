"""Arrays by name and options, as a dialect has read them → the pending request of our own route; its result → arrays.

Defaults, bounds, limits and refusals are those of the own route, because its parser reads the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from app.batching.rule import INITIAL_STATE, Result
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, LargeRequest, RequestParser
from app.inputs.names import OPTIONS, request_name, top_level
from app.wire.codecs import Codec
from app.wire.tensors import Arrays
from saver.artifact import LOG_PROB, Nest

# The functions of a policy that a dialect may ask: the routes of its own protocol.
FUNCTIONS = ("action", "distribution", INITIAL_STATE)


class Reply(NamedTuple):
    """An answer. `head`: the value of its Content-Type, and further header fields, each on a line of its own."""

    head: bytes
    body: bytes


def codec_of(fields: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Codec:
    """Returns a codec that reads fields and options out of any body: what a dialect has decoded is read on as ours is.

    Args:
      fields: NumPy arrays [rows, …], or values as JSON has them, by names that the own route takes.
      options: by name, as `read_options` takes them.
    """

    def decode(_: bytes) -> dict[str, Any]:
        return {**fields, OPTIONS: dict(options)} if options else dict(fields)

    return Codec("", decode, _not_encoded, lambda body, _: decode(body))


def request_of(
    parser: RequestParser,
    policy: Policy,
    function: str,
    fields: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> InferenceRequest:
    """Returns the pending request to one of `FUNCTIONS`; raises as `RequestParser.readers` do.

    `fields`, `options`: see `codec_of`; for `get_initial_state` the one field `batch_size`, an integer.
    """
    return parser.readers[function](policy, codec_of(fields, options), b"")


class ForeignRequest(InferenceRequest, frozen=True):
    """A request whose answer is written by a dialect. `write`: the result → its answer."""

    write: Callable[[Result], Reply] = lambda _: Reply(b"", b"")

    @classmethod
    def of(cls, pending: InferenceRequest, write: Callable[[Result], Reply]) -> ForeignRequest:
        """Returns the same request, with its answer written by `write`."""
        kind = LargeForeignRequest if isinstance(pending, LargeRequest) else ForeignRequest
        return kind(pending.policy, pending.job, pending.batched, pending.template, pending.timeout_s, write)

    def answer(self, result: Result, codec: Codec) -> Any:  # noqa: ARG002
        """See `PendingRequest`."""
        return self.write(result)


class LargeForeignRequest(ForeignRequest, frozen=True):
    """A request whose answer takes long to write."""


def field_name(policy: Policy, name: str) -> str:
    """Returns what the own route calls a field: its flattened name, but where that means the options."""
    return request_name(OPTIONS, top_level(policy.spec)) if name == OPTIONS else name


def outputs_of(pending: InferenceRequest, result: Result) -> Arrays:
    """Returns the outputs of an answer, [rows, …] by flattened name, in their order."""
    return {name: result.outputs[name] for name in pending.template.names}


def outputs_of_step(policy: Policy, answer: Mapping[str, Any]) -> Arrays:
    """Returns the outputs in the decoded answer of a session, by flattened name; it has no policy state."""
    found = dict(_flat(policy.spec.action, answer["action"]))
    if LOG_PROB in answer:
        found[LOG_PROB] = answer[LOG_PROB]
    return found | (dict(_flat(policy.spec.info, answer["info"])) if "info" in answer else {})


def _flat(nest: Nest, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields each leaf's name and value."""
    if isinstance(nest, dict):
        for key, child in nest.items():
            yield from _flat(child, value[key])
    elif isinstance(nest, tuple):
        for child, item in zip(nest, value, strict=True):
            yield from _flat(child, item)
    else:
        yield nest.name, value


def _not_encoded(_: Any) -> bytes:
    raise NotImplementedError("a dialect writes its answers itself")
