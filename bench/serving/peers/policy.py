"""The compiled policy, as a peer runs it: rows of observations in, actions out. Imported in the peers' environments."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

# Peers start their own worker processes: what these cannot be given as an argument stands in the environment.
MODEL = "BENCH_PEER_MODEL"  # as in table.py
# So many requests make a batch at most, for every peer: more than there are clients.
MOST_REQUESTS = 64
# How long a batch may wait for more requests, where there is no way to say "not at all".
WAIT_S = 0.001


class Policy:
    """The file that the environment names."""

    def __init__(self) -> None:
        self._interpreter = Interpreter(model_path=os.environ[MODEL], num_threads=1)
        self._action = self._interpreter.get_signature_runner("action")

    def __call__(self, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[rows, 4] floats → [rows] actions."""
        rows = len(observations)
        inputs = {
            "0/observation": observations.astype(np.float32, copy=False),
            "0/step_type": np.ones(rows, np.int32),
            "0/reward": np.zeros(rows, np.float32),
            "0/discount": np.ones(rows, np.float32),
        }
        names = self._action.get_input_details()
        actions: np.ndarray[Any, Any] = self._action(**{name: inputs[name] for name in names})["action"]
        return actions

    def together(self, requests: list[Any]) -> list[Any]:
        """One call for all requests, each one observation or several; an answer for each, in its template."""
        arrays = [np.asarray(request, np.float32) for request in requests]
        actions = self(np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays]))
        answers, start = [], 0
        for array in arrays:
            rows = len(array) if array.ndim == 2 else 1
            found = actions[start : start + rows].tolist()
            answers.append(found if array.ndim == 2 else found[0])
            start += rows
        return answers
