"""Default values for the fields of a time step that a request leaves out."""

from __future__ import annotations

import numpy as np

from app.inputs.names import DEFAULTED, top_level
from app.wire.tensors import Array, Arrays
from saver.artifact import Leaf, PolicySpec, leaves

FIRST, MID, LAST = 0, 1, 2
# Defaults for so many rows are there at once, those for more are made when they are needed.
_ROWS_KEPT = 1024


class Defaults:
    """Default values for the fields of a time step that a request leaves out."""

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._leaves = default_leaves(spec)
        self._made = {first: self._defaults(_ROWS_KEPT, first) for first in (False, True)}
        # Views of these, by their rows.
        self._kept: dict[bool, dict[int, Arrays]] = {False: {}, True: {}}

    def complete(self, inputs: Arrays, rows: int, initial: Arrays | None, reset_mask: Array | None = None) -> Arrays:
        """Returns all inputs of `action`: reward 0, discount 1, step type MID, or FIRST with the `initial` state.

        Args:
          inputs: [rows, …] by flattened name, as they were sent.
          rows: how many there are.
          initial: the policy state at the start of an episode, by the names of `get_initial_state`; None where the
            policy has none, or where it was sent.
          reset_mask: [rows] booleans, where `inputs` contains a policy state and only these rows start from `initial`.
        """
        first = initial is not None and reset_mask is None
        whole = (self._kept[first].get(rows) or self._of_rows(rows, first)) | inputs
        if not initial:
            return whole
        state = self._spec.state_inputs(initial)
        if reset_mask is not None:
            state = {name: np.where(_column(reset_mask, array), array, whole[name]) for name, array in state.items()}
        return whole | state

    def _of_rows(self, rows: int, first: bool) -> Arrays:
        if rows > _ROWS_KEPT:
            return self._defaults(rows, first)
        kept = self._kept[first][rows] = {name: array[:rows] for name, array in self._made[first].items()}
        return kept

    def _defaults(self, rows: int, first: bool) -> Arrays:
        return {name: _default(top, leaf, rows, first) for name, (top, leaf) in self._leaves.items()}


def _column(rows: Array, beside: Array) -> Array:
    """[rows] with as many dimensions as another array."""
    return rows.reshape(-1, *[1] * (beside.ndim - 1))


def default_leaves(spec: PolicySpec) -> dict[str, tuple[str, Leaf]]:
    """Returns the leaves that a request may leave out: flattened name → its field and the leaf."""
    if not spec.takes_time_step:
        return {}
    nests = top_level(spec)
    return {leaf.name: (top, leaf) for top in DEFAULTED if top != "policy_state" for _, leaf in leaves(nests[top])}


def _default(top: str, leaf: Leaf, rows: int, first: bool) -> Array:
    value = {"step_type": FIRST if first else MID, "discount": 1}.get(top, 0)
    shape = (rows, *(1 if size is None else size for size in leaf.shape))
    array = np.full(shape, value, leaf.storage)
    array.flags.writeable = False  # it serves many requests
    return array
