"""Requests of a route that come in one turn of the event loop: read together, one job together, written together.

That is for the most usual ones, which differ in their numbers alone: one observation as JSON, without options. Read one
by one, each would take a job, its arrays and its result; together they take one of each. What any of them says that
the others do not is read by itself, and so is each of them where their job has failed for what one of them says.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.api.request_cycle import RequestCycle
from app.batching.failures import guarded
from app.batching.rule import Job, Parted, Result
from app.errors import DoesNotFit, EngineFailed
from app.inference.policy import Policy
from app.inference.service import Service
from app.inputs.typed import LEAST_BYTES
from app.wire.codecs import JSON

_ACTION = "action"
_OF_ONE = (DoesNotFit, EngineFailed, Parted)


class Gathering:
    """Those of `action` of one policy. Event loop only."""

    def __init__(self, service: Service, policy: Policy) -> None:
        self._service, self._policy = service, policy
        self._cycles: list[RequestCycle] = []
        self._bodies: list[bytes] = []
        self._asked_at = 0.0

    def __len__(self) -> int:
        return len(self._cycles)

    def takes(self, cycle: RequestCycle, body: bytes, now: float) -> bool:
        """Returns whether a request waits here for the end of the turn; `now`: on the event loop's clock."""
        if len(body) >= LEAST_BYTES or not self._policy.batcher.gathers(self):
            return False
        if not self._cycles:
            self._asked_at = now
        self._cycles.append(cycle)
        self._bodies.append(body)
        cycle.asked = True
        return True

    def job(self) -> Job | None:
        """Returns the job of what waits here, from now on no more; None where each request has one of its own."""
        cycles, self._cycles = self._cycles, []
        bodies, self._bodies = self._bodies, []
        decoder = self._policy.typed_decoder
        # What has none of the places is asked apart, so that no request is lost to a bug.
        places, arrays = guarded(decoder.read_rows, bodies) or ([], {})
        group = _Group(self._service, self._policy, cycles, bodies, self._asked_at)
        if len(places) < len(bodies):
            group.ask_apart(sorted({*range(len(bodies))}.difference(places)))
            group = group.of(places)
        if not places:
            return None
        job = Job(_ACTION, arrays, len(places), decoder.has_state, requests=len(places))
        job.asked_at, job.waiter = self._asked_at, group
        job.deadline = self._asked_at + self._service.timeout_s(None)
        return job


class _Group:
    """The waiter of their job."""

    def __init__(
        self,
        service: Service,
        policy: Policy,
        cycles: Sequence[RequestCycle],
        bodies: Sequence[bytes],
        asked_at: float,
    ) -> None:
        self._service, self._policy = service, policy
        self._cycles, self._bodies, self._asked_at = cycles, bodies, asked_at

    def of(self, places: Sequence[int]) -> _Group:
        """Returns that of some of the requests."""
        cycles, bodies = [self._cycles[place] for place in places], [self._bodies[place] for place in places]
        return _Group(self._service, self._policy, cycles, bodies, self._asked_at)

    def ask_apart(self, places: Sequence[int]) -> None:
        """Asks some of the requests one by one, as if each had come by itself."""
        for place in places:
            cycle = self._cycles[place]
            if not cycle.done():
                cycle.alone = False
                cycle.ask(self._service, self._bodies[place], self._asked_at)

    def done(self) -> bool:
        """See `Waiter`."""
        return all(cycle.done() for cycle in self._cycles)

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""
        bodies = self._policy.templates[_ACTION, False].json_of_each(result)
        header = JSON.header
        for cycle, body in zip(self._cycles, bodies, strict=True):
            if not cycle.done():
                cycle.answer(header, body)

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        if len(self._cycles) > 1 and isinstance(error, _OF_ONE):
            self.ask_apart(range(len(self._cycles)))
            return
        for cycle in self._cycles:
            if not cycle.done():
                cycle.set_exception(error)
