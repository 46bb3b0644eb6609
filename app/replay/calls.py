"""Rows → calls of an engine: many rows at once, or in calls of the shape in which a server answered them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.artifacts.bundle import RowSharing
from app.batching.compute import SEEDED_BATCH_ROWS
from app.engine.base import Engine, InputRefused
from app.engine.noise import seeded_noise
from app.wire.tensors import Array, Arrays
from saver.artifact import Noise

_ROWS_A_CALL = 1024
_NUMBERS_A_CALL = 1 << 22


@dataclass(frozen=True)
class Asked:
    """Rows to be answered: their inputs by flattened name, and which session, step of it and row each one is."""

    inputs: Arrays
    starts: Array
    steps: Array
    rows: Array

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, places: Array) -> Asked:
        """Returns some of the rows."""
        inputs = {name: array[places] for name, array in self.inputs.items()}
        return Asked(inputs, self.starts[places], self.steps[places], self.rows[places])


def noise_of(noise: Noise, seeds: Array, asked: Asked) -> Arrays:
    """Returns the noise that each row had: [rows, size] by name."""
    found: Arrays = {}
    order = np.lexsort((asked.rows, asked.steps, seeds))
    keys = np.stack([seeds, asked.steps], axis=1)[order]
    begins = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)]))
    for places in np.split(order, begins[1:]):
        row = asked.rows[places]
        seed, step = int(seeds[places[0]]), int(asked.steps[places[0]])
        for name, array in seeded_noise(noise, int(row[-1]) + 1, seed, step).items():
            found.setdefault(name, np.empty((len(seeds), array.shape[1]), array.dtype))[places] = array[row]
    return found


def run_together(engine: Engine, function: str, asked: Asked, sharing: RowSharing) -> tuple[Arrays, Array]:
    """Answers rows many at once, or where they depend on each other those of a step of a session.

    Returns:
      The outputs of the rows that were answered, and their places: a policy may refuse some.
    """
    if sharing.dependent:
        return _joined(engine, function, asked, _of_one_step(asked))
    each = sum(array[:1].size for array in asked.inputs.values())
    size = max(1, min(_ROWS_A_CALL, _NUMBERS_A_CALL // max(each, 1)))
    pieces = (np.arange(start, min(start + size, len(asked))) for start in range(0, len(asked), size))
    return _joined(engine, function, asked, pieces)


def run_as_then(engine: Engine, function: str, asked: Asked, sharing: RowSharing, seeded: bool) -> tuple[Arrays, Array]:
    """Answers rows in calls as the server made them, on whose shape their rounding may depend; see `run_together`.

    Seeded rows had calls of a fixed size, in which each had the place of its row. The others had a call with their
    session's rows, as far as no other session was waiting.
    """
    if not seeded or sharing.dependent:
        return _joined(engine, function, asked, _of_one_step(asked))
    outputs: Arrays = {}
    for places in _by_place(asked):
        here = places >= 0
        # The neighbours do not matter, but have to be inputs that the policy takes.
        call = np.where(here, places, places[here][0])
        answered = engine.run(function, {name: array[call] for name, array in asked.inputs.items()})
        for name, array in answered.items():
            whole = outputs.setdefault(name, np.empty((len(asked), *array.shape[1:]), array.dtype))
            whole[places[here]] = array[here]
    return outputs, np.arange(len(asked))


def _by_place(asked: Asked) -> Iterator[Array]:
    """Calls of `SEEDED_BATCH_ROWS` rows: the row at each place, -1 where there is none."""
    waiting = [np.flatnonzero(asked.rows % SEEDED_BATCH_ROWS == place) for place in range(SEEDED_BATCH_ROWS)]
    for call in range(max(len(places) for places in waiting)):
        yield np.array([places[call] if call < len(places) else -1 for places in waiting], np.int64)


def _of_one_step(asked: Asked) -> Iterator[Array]:
    """The rows of each step of a session, in their order."""
    order = np.lexsort((asked.rows, asked.steps, asked.starts))
    start, step = asked.starts[order], asked.steps[order]
    ends = np.flatnonzero((start[1:] != start[:-1]) | (step[1:] != step[:-1])) + 1
    begin = 0
    for end in [*ends.tolist(), len(order)]:
        yield order[begin:end]
        begin = end


def _joined(engine: Engine, function: str, asked: Asked, calls: Iterator[Array]) -> tuple[Arrays, Array]:
    found: Arrays = {}
    answered = np.zeros(len(asked), bool)
    for places in calls:
        for part, outputs in _answers(engine, function, asked, places):
            for name, array in outputs.items():
                whole = found.setdefault(name, np.empty((len(asked), *array.shape[1:]), array.dtype))
                whole[part] = array
            answered[part] = True
    places = np.flatnonzero(answered)
    return (found, places) if answered.all() else ({n: array[places] for n, array in found.items()}, places)


def _answers(engine: Engine, function: str, asked: Asked, places: Array) -> Iterator[tuple[Array, Arrays]]:
    """One call; where it is refused, one for each row, of which those that are refused are left out."""
    try:
        yield places, engine.run(function, {name: array[places] for name, array in asked.inputs.items()})
        return
    except InputRefused:
        if len(places) == 1:
            return
    for place in places.reshape(-1, 1):
        yield from _answers(engine, function, asked, place)
