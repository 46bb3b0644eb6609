"""Requests of a route that come in one turn of the event loop: read together, one job together, written together.

That is for the most usual ones, which differ in their numbers alone: one observation as JSON, without options. Read one
by one, each would take a job, its arrays and its result; together they take one of each. What any of them says that
the others do not is read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.api.request_cycle import RequestCycle
from app.batching.failures import guarded
from app.batching.rule import Each, Job, Result
from app.inference.policy import Policy
from app.inference.service import Service
from app.inputs.typed import LEAST_BYTES

_ACTION = "action"


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
        if len(places) < len(bodies):
            for place in sorted({*range(len(bodies))}.difference(places)):
                self._ask_apart(cycles[place], bodies[place])
            cycles = [cycles[place] for place in places]
        if not cycles:
            return None
        job = Job(_ACTION, arrays, len(cycles), decoder.has_state, requests=len(cycles))
        job.asked_at, job.waiter = self._asked_at, _Group(self._policy, cycles)
        job.deadline = self._asked_at + self._service.timeout_s(None)
        return job

    def _ask_apart(self, cycle: RequestCycle, body: bytes) -> None:
        """Asks one as if it had come by itself."""
        if not cycle.done():
            cycle.alone = False
            guarded(cycle.ask, self._service, body, self._asked_at)


class _Group:
    """The waiter of their job."""

    def __init__(self, policy: Policy, cycles: Sequence[RequestCycle]) -> None:
        self._template, self._cycles = policy.templates[_ACTION, False], cycles

    def done(self) -> bool:
        """See `Waiter`."""
        return all(cycle.done() for cycle in self._cycles)

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""
        for cycle, body in zip(self._cycles, self._template.json_of_each(result), strict=True):
            if not cycle.done():
                cycle.answer(body)

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        outcomes = error.outcomes if isinstance(error, Each) else [error] * len(self._cycles)
        for cycle, outcome in zip(self._cycles, outcomes, strict=True):
            if cycle.done():
                continue
            if isinstance(outcome, Exception):
                cycle.set_exception(outcome)
            else:
                cycle.answer(self._template.json(outcome, batched=False))
