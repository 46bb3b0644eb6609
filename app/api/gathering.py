"""Requests that come in one turn of the event loop and are read alike: read together, and written together.

That is for the most usual ones, which differ in their numbers alone: one observation as JSON, without options, for one
policy, or for several with the same spec. Read one by one, each would take a job, its arrays and its result; together
those of a policy take one of each. What any of them says that the others do not is read by itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from app.api.request_cycle import RequestCycle
from app.batching.batcher import Batcher
from app.batching.failures import explained, guarded
from app.batching.rule import Each, Job, Result
from app.batching.turns import computed_together
from app.inference.policy import Policy
from app.inference.response import ResponseTemplate
from app.inference.service import Service
from app.inputs.typed_rows import NOTHING_READ, RowsDecoder, RowsRead

_ACTION = "action"


class Gathering:
    """Those of `action` of a policy, and of all others with its spec. Event loop only."""

    def __init__(self, service: Service, policy: Policy, decoder: RowsDecoder) -> None:
        self._service = service
        self._decoder, self._template = decoder, policy.templates[_ACTION, False]
        self._turns = policy.batcher.turns
        self._groups: _Groups = {}
        self._results: Iterator[tuple[_Group, Result] | None] = iter(())
        self._asked_at = 0.0

    def takes(self, policy: Policy, cycle: RequestCycle, body: bytes, now: float) -> bool:
        """Returns whether a request waits here for the end of the turn; `now`: on the event loop's clock."""
        batcher = policy.batcher
        if not self._decoder.reads(body) or not batcher.gathers(self):
            return False
        group = self._groups.get(batcher)
        if group is None:
            if not self._groups:
                self._asked_at = now
                self._turns.add_gathered(self)
            group = self._groups[batcher] = _Group(self._template)
        group.requests.append((cycle, body))
        cycle.asked = True
        return True

    def takes_more(self) -> bool:
        """See `Due`."""
        return len(self._groups) > 1 or any(len(group.requests) > 1 for group in self._groups.values())

    def submit(self, batcher: Batcher) -> None:
        """See `Gathered`."""
        group = self._groups.pop(batcher, None)
        for _, _, job in self._jobs({} if group is None else {batcher: group}):
            batcher.submit_gathered(job)

    def compute(self) -> Callable[[], None] | None:
        """Computes for the next policies, one after the other; see `Due`."""
        if self._groups:
            groups, self._groups = self._groups, {}
            self._results = _results(self._jobs(groups))
        computed = computed_together(self._results)
        return partial(self._deliver, computed) if computed else None

    def _jobs(self, groups: _Groups) -> Sequence[tuple[Batcher, _Group, Job]]:
        """Returns one for each policy, of what can be read together; what cannot is asked apart."""
        try:
            return self._jobs_of(groups, self._read(groups))
        except Exception as error:  # a bug of ours: nobody waits for ever
            _fail(groups, error)
            return ()

    def _jobs_of(self, groups: _Groups, read: RowsRead) -> Sequence[tuple[Batcher, _Group, Job]]:
        """`read`: the rows of all groups."""
        deadline = self._asked_at + self._service.timeout_s(None)
        jobs, start = [], 0
        for batcher, group in groups.items():
            count = len(group.requests)
            if not count:
                continue
            inputs = read.arrays
            if len(groups) > 1:
                inputs = {}
                for name, array in read.arrays.items():
                    inputs[name] = array[start : start + count]
            job = Job(_ACTION, inputs, count, read.needs_state, requests=count)
            job.asked_at, job.deadline, job.waiter = self._asked_at, deadline, group
            jobs.append((batcher, group, job))
            start += count
        return jobs

    def _read(self, groups: _Groups) -> RowsRead:
        """Reads all requests."""
        bodies = [body for group in groups.values() for _, body in group.requests]
        # What has none of the places is asked apart, so that no request is lost to a bug.
        read = (guarded(self._decoder.read, bodies) if bodies else None) or NOTHING_READ
        if len(read.places) < len(bodies):
            self._keep_only({*read.places}, groups)
        return read

    def _keep_only(self, places: Collection[int], groups: _Groups) -> None:
        """Keeps the requests with these places among all; asks each of the others as if it had come by itself."""
        place = itertools.count()
        for batcher, group in groups.items():
            requests, group.requests = group.requests, []
            batcher.end_gathering()  # or they would find their own places in the queue taken
            for cycle, body in requests:
                if next(place) in places:
                    group.requests.append((cycle, body))
                elif not cycle.done():
                    cycle.alone = False
                    guarded(cycle.ask, self._service, body, self._asked_at)

    def _deliver(self, computed: Sequence[tuple[_Group, Result]]) -> None:
        try:
            counts = [len(group.requests) for group, _ in computed]
            cycles = [cycle for group, _ in computed for cycle, _ in group.requests]
            self._turns.cork.expect(len(cycles), len(cycles), len(computed))
            _answer(cycles, self._template.json_of_each([result for _, result in computed], counts))
        except Exception as error:  # as in `_jobs`
            _fail_all([group for group, _ in computed], error)


class _Group(msgspec.Struct, eq=False):
    """The requests of one policy, with their bodies; the waiter of their job. `template`: of their answers."""

    template: ResponseTemplate
    requests: list[tuple[RequestCycle, bytes]] = []

    def done(self) -> bool:
        """See `Waiter`."""
        return all(cycle.done() for cycle, _ in self.requests)

    def set_result(self, result: Result) -> None:
        """See `Waiter`."""
        _answer([cycle for cycle, _ in self.requests], self.template.json_of_each([result], [len(self.requests)]))

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        outcomes = error.outcomes if isinstance(error, Each) else [error] * len(self.requests)
        for (cycle, _), outcome in zip(self.requests, outcomes, strict=True):
            if cycle.done():
                continue
            if isinstance(outcome, Exception):
                cycle.set_exception(outcome)
            else:
                cycle.answer(self.template.json(outcome, batched=False))


_Groups: TypeAlias = dict[Batcher, _Group]


def _results(jobs: Iterable[tuple[Batcher, _Group, Job]]) -> Iterator[tuple[_Group, Result] | None]:
    """Computes one after the other; yields None for what has to wait."""
    loop = asyncio.get_running_loop()
    for batcher, group, job in jobs:
        try:
            result = batcher.compute_gathered(job, loop.time())
            if result is None:
                batcher.submit_gathered(job)
        except Exception as error:  # as in `Gathering._jobs`; the next ones are computed
            _fail({batcher: group}, error)
            continue
        yield None if result is None else (group, result)


def _fail(groups: _Groups, error: Exception) -> None:
    """Fails what has become no job."""
    for batcher in groups:
        batcher.end_gathering()
    _fail_all(groups.values(), error)


def _fail_all(groups: Iterable[_Group], error: Exception) -> None:
    for_callers = explained(error)
    for group in groups:
        guarded(group.set_exception, for_callers)


def _answer(cycles: Sequence[RequestCycle], bodies: Sequence[bytes]) -> None:
    for cycle, body in zip(cycles, bodies, strict=True):
        if not cycle.done():
            cycle.answer(body)
