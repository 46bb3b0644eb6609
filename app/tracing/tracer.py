"""Requests that are traced: what is noted of each while it is under way, and where it goes when it is over."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, time_ns
from types import SimpleNamespace
from typing import Any, NamedTuple

from app.batching.timing import Timing
from app.tracing.context import Parent
from app.tracing.sampling import Sampler


class Asked(NamedTuple):
    """What a protocol says of a request: the name of the server's span, its attributes, whether the server failed."""

    name: str
    attributes: dict[str, Any]
    failed: bool


class RequestTrace(Timing):
    """One request that is traced from now on, with its times; the thread that sends its spans makes them.

    `started`, `ended`: by `perf_counter`; `ended_ns`: the latter by the clock of the spans. `asked`: gives what the
    protocol says, with its arguments. `trace_id`, `span_ids`: 16 bytes, and 8 for each of its four spans, once there
    are any.
    """

    # The library's processors look whether it is sampled, as in a `SpanContext`.
    context = SimpleNamespace(trace_flags=SimpleNamespace(sampled=True))

    ended, ended_ns = 0.0, 0
    trace_id = span_ids = b""
    asked: tuple[Callable[..., Asked], tuple[Any, ...]]

    def __init__(self, parent: Parent | None) -> None:
        self.parent = parent
        self.started = perf_counter()


class Tracer:
    """Ends traces. `sampler` is for those who ask whether to start one; `pass_on` takes each that is over."""

    def __init__(self, sampler: Sampler, pass_on: Callable[[Any], None]) -> None:
        self.sampler = sampler
        self._pass_on = pass_on

    def end(self, trace: RequestTrace, asked: Callable[..., Asked], *arguments: Any) -> None:
        """Ends a trace; `asked` is called with the arguments, which can be hashed, when its spans are made."""
        trace.ended, trace.ended_ns = perf_counter(), time_ns()
        trace.asked = asked, arguments
        self._pass_on(trace)
