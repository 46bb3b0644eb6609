"""Readers of experience, by their cursors: how many read, and how far behind each one is."""

from __future__ import annotations

# A trainer may take its time over a batch; one that was not seen for so long is gone.
_GONE_S = 120.0
# So many are followed for each policy, those that read last.
_MOST = 64


class Readers:
    """The readers of one policy. One thread notes them; others may ask how far behind they are."""

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
        seen = self._seen.copy()  # in one step, so that no other thread adds to it meanwhile
        return [max(0, end - row) for row, at in seen.values() if now - at < _GONE_S]
