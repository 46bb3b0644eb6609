"""The limits of all row logs of a server together: the oldest segment of all goes first."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A row log as the limits see it."""

    @property
    def size(self) -> int:
        """The bytes of its segments, and of the journals that it is made of."""

    @property
    def oldest(self) -> float | None:
        """When the segment was begun that goes first; None where only the open one is left."""

    def remove_oldest(self) -> None:
        """Removes that segment."""


class RowLogLimits:
    """Limits, and the logs that keep them together. Only the thread that appends to the logs uses this.

    Args:
      bytes_limit: of the segments of all logs together, which may be one segment more.
      segment_bytes: at which a segment is closed.
      segment_s: seconds after which a segment with rows is closed.
      logs: how many there will be: all of their open segments have to fit too.
    """

    def __init__(self, bytes_limit: int, segment_bytes: int, segment_s: float, logs: int = 1) -> None:
        self.bytes_limit = bytes_limit
        self.segment_bytes = min(segment_bytes, bytes_limit // (2 * logs))
        self.segment_s = segment_s
        self._logs: list[Log] = []

    def add(self, log: Log) -> None:
        """Has a log count too."""
        self._logs.append(log)

    def remove(self, log: Log) -> None:
        """Has a log count no more."""
        self._logs.remove(log)

    def make_room(self, size: int) -> None:
        """Removes the oldest segments until so many bytes more are within the limit, or only open segments are left."""
        while sum(log.size for log in self._logs) + size > self.bytes_limit:
            oldest = [(log.oldest, index) for index, log in enumerate(self._logs) if log.oldest is not None]
            if not oldest:
                return
            self._logs[min(oldest)[1]].remove_oldest()
