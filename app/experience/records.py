"""Records that lie one behind the other in memory, or in a file that is mapped: where each begins, and its bytes."""

from __future__ import annotations

import mmap

import numpy as np

from app.experience.event import HEAD_BYTES, length_of
from app.wire.tensors import Array

# After so many records of the same length, as a rule those that follow are too.
_LEAST_RUN = 16


class Unreadable(Exception):
    """What should be records is none."""


class Records:
    """The records in `data`. Arrays that it returns are copies."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = memoryview(data)
        self.size = len(self.data)

    def places(self, start: int, end: int, most: int) -> Array:
        """Returns where the records between two places begin, the first so many of them: [n] int64.

        Raises:
          Unreadable: at the start there is something else: the machine went down before it was on the disk.
        """
        found, at = [np.empty(0, np.int64)], start
        while at < end and most > 0:
            walked = self._walked(at, end, min(most, _LEAST_RUN))
            if not walked:
                break
            found.append(np.array(walked, np.int64))
            length = length_of(self.data, walked[-1])
            at, most = walked[-1] + length, most - len(walked)
            if len(walked) == _LEAST_RUN and at - walked[0] == _LEAST_RUN * length:
                run = self._run(at, length, min(most, (end - at) // length))
                found.append(np.arange(at, at + run * length, length))
                at, most = at + run * length, most - run
        if at == start < end and most > 0:
            raise Unreadable(f"at {start} is no record")
        return np.concatenate(found)

    def _walked(self, at: int, end: int, most: int) -> list[int]:
        """Returns where the next records begin, one after the other."""
        places: list[int] = []
        while len(places) < most and end - at >= HEAD_BYTES:
            length = length_of(self.data, at)
            if not HEAD_BYTES <= length <= end - at:
                break
            places.append(at)
            at += length
        return places

    def _run(self, at: int, length: int, most: int) -> int:
        """Returns how many records from there on have this length, of so many that there may be."""
        count, window = 0, 4 * _LEAST_RUN
        while count < most:
            size = min(window, most - count)
            lengths: Array = np.ndarray((size,), "<u4", self.data, at + count * length, (length,))
            others = np.flatnonzero(lengths != length)
            if len(others):
                return count + int(others[0])
            count, window = count + size, 4 * window
        return count

    def taken(self, places: Array, size: int) -> Array:
        """Returns the bytes from each of these places on: [n] void of that size."""
        if not len(places):
            return np.empty(0, f"V{size}")
        return np.ndarray((self.size - size + 1,), f"V{size}", self.data, 0, (1,))[places]

    def record(self, place: int) -> memoryview:
        """Returns the record at a place."""
        return self.data[place : place + length_of(self.data, place)]
