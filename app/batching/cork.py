"""Answers leave together: those of a batch that is recorded, of one with many, and of several policies'.

Between two answers that are written tens of microseconds apart, the client's process falls asleep and has to be woken
up, and code leaves the cache: some 18 µs a send, and 9 where sends follow each other; in a virtual machine of a virtual
machine three times as much. The few of one batch that is not recorded leave at once: whoever asked goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from app.batching.failures import guarded, note_bug

# More, or more bytes, are not held back: the first would wait for too long.
_MOST_HELD, _MOST_BYTES = 64, 64 * 1024
# So many of one batch leave together, where writing one does not take long: of fewer the clients go on meanwhile.
_MANY, _MOST_ROWS_EACH = 8, 64


class Sender(Protocol):
    """A connection that an answer goes to."""

    def write_now(self, data: bytes) -> None:
        """Sends it."""


class Cork:
    """One for all batchers and connections of an event loop."""

    def __init__(self) -> None:
        self._delivers = self._together = False
        self._held: list[tuple[Sender, bytes]] = []
        self._bytes = 0
        self._before: list[Callable[[], None]] = []

    def run(self, deliveries: Sequence[Callable[[], None]]) -> None:
        """Calls what delivers batches, one after the other; what is held back meanwhile leaves after the last."""
        self._delivers, self._together = True, len(deliveries) > 1
        for deliver in deliveries:
            guarded(deliver)
        self._delivers = self._together = False
        self.send_all()

    def expect(self, answers: int, rows: int, policies: int = 1) -> None:
        """Notes how many answers are delivered now, how many rows are in them, and of how many policies they are."""
        is_many = answers >= _MANY and rows <= _MOST_ROWS_EACH * answers
        self._together = self._delivers and (self._together or is_many or policies > 1)

    def hold(self, sender: Sender, data: bytes) -> bool:
        """Holds an answer back where others are to leave with it; returns whether it does. Its caller sends others."""
        if not self._before and not self._together:
            return False
        self._held.append((sender, data))
        self._bytes += len(data)
        if len(self._held) >= _MOST_HELD or self._bytes >= _MOST_BYTES:
            self.send_all()
        return True

    def before_sending(self, call: Callable[[], None]) -> bool:
        """Has something called before any other answer is sent; returns whether it will be, as a batch is delivered."""
        if not self._delivers:
            return False
        self._before.append(call)
        return True

    def send_all(self) -> None:
        """Sends what is held back now."""
        before, self._before = self._before, []
        for call in before:
            guarded(call)
        held, self._held, self._bytes = self._held, [], 0
        for sender, data in held:
            try:
                sender.write_now(data)
            except Exception as error:
                note_bug(error)
