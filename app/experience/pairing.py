"""Events as they are read → pairs of a step's event and the next one's. Pure.

Each pair comes out once, whatever is read twice. Workers write the steps of one session in journals of their own, so
that an event may be read before the one of the step that it follows: then it is early, and the other is read first.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.experience.event import COPY, Event, Pair


class Pairing:
    """The last step of each session. `lost`: how many steps followed one that was not recorded."""

    def __init__(self) -> None:
        self._last: dict[bytes, Event] = {}
        # The newest start of each session, and when it was: an older one is not stepped any more.
        self._newest: dict[str, tuple[int, bytes]] = {}
        self.lost = 0

    def is_early(self, event: Event) -> bool:
        """Returns whether the step before was not taken yet, and it was not copied so that nothing is before it."""
        last = self._last.get(event.key)
        before = -1 if last is None else last.head.step
        return event.head.step > before + 1 and not event.head.flags & COPY

    def pair(self, event: Event) -> Pair | None:
        """Returns the pair that an event makes with the one before it, if it does."""
        last = self._last.get(event.key)
        if last is None or event.head.step != last.head.step + 1 or event.head.flags & COPY:
            return None  # what was copied from another machine ends a row there
        # A session has the same rows in all steps; who can write to Redis may have changed that.
        return (last, event) if event.head.rows == last.head.rows else None

    def take(self, event: Event) -> None:
        """Has an event be the last one of its session; what was taken already is not taken again."""
        last = self._last.get(event.key)
        step = event.head.step
        if last is not None and step <= last.head.step:
            return
        self._last[event.key] = event
        if step == 0:
            session, begun = event.who().session, (event.head.time_ns, event.key)
            if begun > self._newest.get(session, (0, b"")):
                self._newest[session] = begun

    def give_up(self, event: Event) -> None:
        """Takes an event that is early, where the one before it will not come."""
        self.lost += 1
        self.take(event)

    def waiting(self, source: str) -> Iterator[Event]:
        """Yields what was read from `source`, and may yet be followed."""
        for event in list(self._last.values()):
            if event.source == source and not self._is_replaced(event):
                yield event

    def move(self, event: Event) -> None:
        """Puts an event in the place of the same one, which was read from somewhere else."""
        self._last[event.key] = event

    def forget(self, source: str, but: set[bytes]) -> None:
        """Forgets what was read from `source`, but for the sessions of these keys."""
        gone = [key for key, event in self._last.items() if event.source == source and key not in but]
        for key in gone:
            del self._last[key]
        self._newest = {session: newest for session, newest in self._newest.items() if newest[1] in self._last}

    def _is_replaced(self, event: Event) -> bool:
        newest = self._newest.get(event.who().session)
        return newest is not None and newest[1] != event.key and newest[0] > event.head.time_ns
