"""An engine that tests drive by hand: its answers name its version, and it can be made to wait or to fail."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.engine.base import InputRefused
from app.wire.tensors import Arrays


class FakeEngine:
    """Answers `action` with its `number` for every row. `calls` keeps the rows of each call."""

    name = "fake"
    draws = False

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.calls: list[int] = []
        self.refuses_above: float | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Engine.run`. Waits while `go_on` is not set."""
        self.entered.set()
        self.go_on.wait(10)
        observation = inputs["0/observation"]
        self.calls.append(len(observation))
        if self.refuses_above is not None and observation.max() > self.refuses_above:
            raise InputRefused("observation too large")
        return {"action": np.full(len(observation), self.number)}

    def initial_state(self, rows: int) -> Arrays:
        """See `Engine.initial_state`: no state."""
        return {}
