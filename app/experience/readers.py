"""Readers of experience, by their cursors: how many read, and how far behind each one is."""

from __future__ import annotations

# A trainer may take its time over a batch; one that was not seen for so long is gone.
_GONE_S = 120.0
# So many are followed for each policy, those that read last.
_MOST = 64


class Readers:
    """The readers of one policy."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[int, float]] = {}

    def saw(self, reader: bytes, row: int, now: float) -> None:
        """Notes that a reader goes on from a row; `now`: seconds of any clock."""
        self._seen.pop(reader, None)
        self._seen[reader] = (row, now)
        if len(self._seen) > _MOST:
            del self._seen[next(iter(self._seen))]

    def behind(self, end: int, now: float) -> list[int]:
        """Returns how many rows each reader has yet to read, of a log that ends before the row `end`."""
        self._seen = {reader: seen for reader, seen in self._seen.items() if now - seen[1] < _GONE_S}
        return [max(0, end - row) for row, _ in self._seen.values()]
