"""The turns of the event loop in which requests come: whether they come one at a time, or several in one turn."""

from __future__ import annotations

import asyncio

from app.batching.busy_poll import BusyPoll
from app.batching.cork import Cork

# After a turn with several requests, so many more have theirs wait for each other, though they have but one.
_GATHERED = 16


class Turns:
    """Numbers the turns of an event loop that somebody notes; one for all batchers of a process.

    `cork`, `poll`: all batchers' own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cork = Cork(loop)
        self.poll = BusyPoll(loop)
        self._loop = loop
        self._number = 0
        self.is_open = False  # whether one was noted that is not over

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

    def _end(self) -> None:
        self.is_open = False
        if self.cork.gathers:
            self.cork.send_all()


class Arrivals:
    """Decides whether a job runs as soon as it comes: where several come in one turn, one call for all costs less."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._last = -1  # the turn of the last job that ran as soon as it came
        self._gathering = 0

    def is_alone(self) -> bool:
        """Returns whether the job that comes now may run at once.

        Where one of another policy has run in this turn, its answer leaves with others when the turn is over.
        """
        if self._gathering:
            return False
        if self._turns.is_now(self._last):
            self._gathering = _GATHERED
            return False
        if self._turns.is_open:
            self._turns.cork.gather()
        return True

    def note_alone(self) -> None:
        """Notes that a job has run as soon as it came."""
        self._last = self._turns.note()

    def note(self, jobs: int) -> None:
        """Notes how many jobs had waited for one call together."""
        if jobs > 1:
            self._gathering = _GATHERED
        elif self._gathering:
            self._gathering -= 1
