"""The turns of the event loop in which requests come: whether they come one at a time, or several in one turn."""

from __future__ import annotations

import asyncio

from app.batching.cork import Cork

# After a turn with several requests, so many more have theirs wait for each other, though they have but one.
_GATHERED = 16


class Turns:
    """Numbers the turns of an event loop that somebody notes; one for all batchers of a process. `cork`: their own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cork = Cork(loop)
        self._loop = loop
        self._number = 0
        self._noted: list[None] = []

    def note(self) -> int:
        """Returns the number of this turn."""
        if not self._noted:
            self._number += 1
            self._noted.append(None)
            self._loop.call_soon(self._noted.clear)  # runs once all that came in this turn was read
        return self._number

    def is_now(self, number: int) -> bool:
        """Returns whether the turn of this number is not over."""
        return number == self._number and bool(self._noted)


class Arrivals:
    """Decides whether a job runs as soon as it comes: where several come in one turn, one call for all costs less."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._last = -1  # the turn of the last job that ran as soon as it came
        self._gathering = 0

    def is_alone(self) -> bool:
        """Returns whether the job that comes now may run at once."""
        if self._gathering:
            return False
        if self._turns.is_now(self._last):
            self._gathering = _GATHERED
            return False
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
