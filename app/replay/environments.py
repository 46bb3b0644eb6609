"""What goes from one step of an environment to its next: reward and discount, and the policy state. Pure.

A row has the reward and the discount that came with the next observation; the policy was asked with those that came
with its own, which the row before has. The policy state is not recorded: it is computed again, from the start of an
episode on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from app.inputs.defaults import FIRST
from app.wire.tensors import Array, Arrays

_NO_STEP = -2


class PerEnvironment:
    """A value of each environment, [environments, …] by name; `step`: of which step it is left."""

    def __init__(self) -> None:
        self._arrays: Arrays = {}
        self._step = np.full(0, _NO_STEP, np.int64)

    def follows(self, environments: Array, steps: Array) -> Array:
        """[rows] whether what is kept was left by the step just before."""
        self._grow(environments)
        return np.asarray(self._step[environments] == steps - 1)

    def values(self, name: str, environments: Array) -> Array:
        """Returns what is kept, [rows, …]."""
        return self._arrays[name][environments]

    def keep(self, environments: Array, steps: Array, values: Mapping[str, Array]) -> None:
        """Keeps the values that these steps leave, one row an environment."""
        self._grow(environments)
        self._step[environments] = steps
        for name, array in values.items():
            if name not in self._arrays or len(self._arrays[name]) < len(self._step):
                grown = np.zeros((len(self._step), *array.shape[1:]), array.dtype)
                if name in self._arrays:
                    grown[: len(self._arrays[name])] = self._arrays[name]
                self._arrays[name] = grown
            self._arrays[name][environments] = array

    def _grow(self, environments: Array) -> None:
        needed = int(environments.max(initial=-1)) + 1
        if needed > len(self._step):
            more = np.full(max(needed, 2 * len(self._step)) - len(self._step), _NO_STEP, np.int64)
            self._step = np.concatenate([self._step, more])


class CameWith:
    """The rewards and discounts that the policy was asked with, from those in the rows before.

    `defaults`: by name, of one row, for steps of which the row before was not recorded.
    """

    def __init__(self, defaults: Arrays) -> None:
        self._defaults = defaults
        self._last = PerEnvironment()

    def shifted(self, environments: Array, steps: Array, values: Arrays) -> Arrays:
        """Returns, for each row, the values in the row of the step before: [rows, …] by name."""
        order = np.lexsort((steps, environments))
        environment, step = environments[order], steps[order]
        same = environment[1:] == environment[:-1]
        after = np.concatenate([[False], same & (step[1:] == step[:-1] + 1)])
        begins, ends = np.concatenate([[True], ~same]), np.concatenate([~same, [True]])
        carried = begins & self._last.follows(environment, step)
        shifted = {}
        for name, array in values.items():
            whole = np.broadcast_to(self._defaults[name], array.shape).astype(array.dtype)
            whole[order[after]] = array[order[np.flatnonzero(after) - 1]]
            if carried.any():
                whole[order[carried]] = self._last.values(name, environment[carried])
            shifted[name] = whole
        last = order[ends]
        self._last.keep(environments[last], steps[last], {name: array[last] for name, array in values.items()})
        return shifted


def waves(environments: Array, steps: Array) -> Iterator[Array]:
    """Yields the places of rows that can be answered together: of each environment one, in the order of its steps."""
    order = np.lexsort((steps, environments))
    environment = environments[order]
    begins = np.flatnonzero(np.concatenate([[True], environment[1:] != environment[:-1]]))
    lengths = np.diff(np.concatenate([begins, [len(order)]]))
    # The longest first: those that still have a row in a wave come before the others.
    longest = np.argsort(-lengths, kind="stable")
    begins, lengths = begins[longest], lengths[longest]
    count = len(begins)
    for wave in range(int(lengths[0])):
        while lengths[count - 1] <= wave:
            count -= 1
        yield order[begins[:count] + wave]


def starts_anew(step_types: Array, steps: Array) -> Array:
    """[rows] whether a step started from the initial policy state."""
    return np.asarray((step_types == FIRST) | (steps == 0))
