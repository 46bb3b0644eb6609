"""The turns of the event loop in which requests come: one at a time, or several, whose batches run when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

from app.batching.busy_poll import BusyPoll
from app.batching.cork import Cork
from app.batching.failures import guarded

# After a turn with several requests, so many more have theirs wait for each other, though they have but one.
_GATHERED = 16
# After a turn with so many requests those of the next ones are gathered: with fewer that takes as long as it saves.
_MANY = 4
# So many batches are computed before the first is delivered, and none once the first has waited for so long.
_MOST_TOGETHER, _MOST_WAIT_S = 32, 0.001
R = TypeVar("R")


class Due(Protocol):
    """A batcher whose next batch is due, or what has requests of several of them."""

    def compute(self) -> Callable[[], None] | None:
        """Runs the batch, and returns what delivers it; None where there is none, or it runs elsewhere or later."""

    def takes_more(self) -> bool:
        """Returns whether several requests wait here, and others could join them."""


class Turns:
    """Numbers the turns of an event loop that somebody notes, and runs what is due when one is over.

    One for all batchers of a process. `cork`: all batchers' own; `clock`: seconds. `requests`: how many are in the
    batches of this turn so far. `crowded`: for how many more turns many are expected, as there were lately.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter) -> None:
        self.cork = Cork()
        self.poll = BusyPoll(loop)
        self._loop, self._clock = loop, clock
        self._number = 0
        self.is_open = False  # whether one was noted that is not over
        self.requests = 0
        self.crowded = 0
        self._is_long = False
        self._due: list[Due] = []
        self._gathered: list[Due] = []

    def note(self) -> int:
        """Returns the number of this turn."""
        if not self.is_open:
            self._number += 1
            self.is_open = True
            self._loop.call_soon(self._end)  # runs once all that came in this turn was read
        return self._number

    def is_now(self, number: int) -> bool:
        """Returns whether the turn of this number is not over."""
        return self.is_open and number == self._number

    def add(self, batcher: Due) -> None:
        """Has the next batch of a batcher run when this turn is over."""
        self.note()
        self._due.append(batcher)

    def add_gathered(self, gathered: Due) -> None:
        """Has what was gathered for batchers computed before their own batches, until it returns None."""
        self.note()
        self._gathered.append(gathered)

    def _end(self) -> None:
        """Ends the turn; one with several requests for a batch, or gathered, after another look at all connections.

        What has come while these were read joins them, which costs less than another turn.
        """
        self._is_long = not self._is_long and any(due.takes_more() for due in (*self._gathered, *self._due))
        if self._is_long:
            self._number += 1  # a client that was answered in the first half may ask again in the second
            self._loop.call_soon(self._end)
            return
        gathered, self._gathered = self._gathered, []
        for due in gathered:
            while (delivery := guarded(due.compute)) is not None:
                self.deliver([delivery])
        self.is_open = False
        batchers, self._due = self._due, []
        computed = (guarded(batcher.compute) for batcher in batchers)
        while deliveries := computed_together(computed, self._clock):
            self.deliver(deliveries)
        self.crowded = _GATHERED if self.requests >= _MANY else max(0, self.crowded - 1)
        self.requests = 0

    def deliver(self, deliveries: Sequence[Callable[[], None]]) -> None:
        """Calls what delivers batches, and looks for the next requests once their answers have left."""
        self.cork.run(deliveries)
        self.poll.answered()


def computed_together(computed: Iterator[R | None], clock: Callable[[], float] = perf_counter) -> list[R]:
    """Returns what is computed as it is asked for, one after the other, until it is time to deliver; without the Nones.

    The same code for one policy after the other is in the processor's cache; all of it for each is not.
    """
    found: list[R] = []
    until = clock() + _MOST_WAIT_S
    for result in computed:
        if result is not None:
            found.append(result)
            if len(found) >= _MOST_TOGETHER or clock() > until:
                break
    return found


class Arrivals:
    """Decides whether a job of a policy runs as soon as it comes: several in one turn cost less together."""

    __slots__ = ("_gathering", "_last", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._last = -1  # the turn of the last job that ran as soon as it came
        self._gathering = 0

    def is_alone(self) -> bool:
        """Returns whether the job that comes now may run at once: nothing is due, and lately they came one by one."""
        if self._gathering:
            return False
        if self._turns.is_now(self._last):
            self._gathering = _GATHERED
        return not self._turns.is_open

    def note_alone(self) -> None:
        """Notes that a job has run as soon as it came, and was answered."""
        self._last = self._turns.note()
        self._turns.poll.answered()

    def note(self, jobs: int) -> None:
        """Notes how many jobs had waited for one call together."""
        if jobs > 1:
            self._gathering = _GATHERED
        elif self._gathering:
            self._gathering -= 1
