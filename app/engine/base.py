"""The interface that every engine has: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from app.wire.tensors import Arrays


class InputRefused(Exception):
    """The policy itself refused an input that fits its spec (an assertion or a look-up in its graph)."""


class Engine(Protocol):
    """One copy of a policy with one set of weights. Calls block; one call at a time."""

    name: str

    @property
    def draws(self) -> bool:
        """True where `action` may answer equal inputs differently: it draws random numbers, or keeps something."""

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Runs a function of the policy on [rows, …] arrays by flattened name.

        Args:
          function: "action", or "distribution", "greedy" or "sample" where the policy has them.
          inputs: one array for each input of the signature, in its dtype, all with the same rows.

        Returns:
          One [rows, …] array for each output, by flattened name.

        Raises:
          InputRefused: the caller's input is to blame.
        """

    def initial_state(self, rows: int) -> Arrays:
        """The initial policy state, [rows, …] by the names of `get_initial_state`; empty without state."""
