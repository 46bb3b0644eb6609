"""Steps as they were read from journals: a table with a row for each, and the names that its numbers stand for."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np

# `source`: the number of the records that it is in, and `at`: where; `session`, `version`: see `Numbers`; the rest as
# in `HEADS`.
_PLACE = ("session", "step", "source", "at", "length", "rows")
_SAID = ("version", "time_ns", "train_step", "seed", "flags", "mode")
STEPS = np.dtype([(name, np.int64) for name in (*_PLACE, *_SAID)])
# Of a session that has no step.
NO_STEP = -1

Name = TypeVar("Name", bound=Hashable)


class Numbers(Generic[Name]):
    """Names by small numbers, each for as long as somebody uses it.

    `names`: by number; None where one is free. `keys`: by number; no other name had it before.
    """

    def __init__(self) -> None:
        self.names: list[Name | None] = []
        self._numbers: dict[Name, int] = {}
        self._uses: list[int] = []
        self._free: list[int] = []
        self.keys = np.empty(256, np.int64)
        self._named = 0

    def use(self, name: Name) -> int:
        """Returns the number of a name, which is used once more from now on."""
        number = self._numbers.get(name)
        if number is None:
            if self._free:
                number = self._free.pop()
            else:
                number = len(self.names)
                self.names.append(None)
                self._uses.append(0)
                if number == len(self.keys):
                    self.keys = np.concatenate((self.keys, np.empty_like(self.keys)))
            self._named += 1
            self.keys[number] = self._named
            self.names[number] = name
            self._numbers[name] = number
        self._uses[number] += 1
        return number

    def leave(self, number: int) -> Name | None:
        """Has a number be used once less; returns the name where that was the last time: it has no number any more."""
        self._uses[number] -= 1
        if self._uses[number]:
            return None
        name = self.names[number]
        assert name is not None, "it was used"
        self.names[number] = None
        del self._numbers[name]
        self._free.append(number)
        return name
