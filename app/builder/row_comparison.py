"""Answers compared row by row: equal up to rounding, or like those to inputs that differ by no more than rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.builder.equivalence_inputs import later_probes
from app.engine.base import Engine
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec, ServingInfo
from saver.artifact.probe import probe_inputs, probe_noise

TOLERANCE = 1e-5
NUDGES = 64
_NUDGE = 1e-6


class Unequal(Exception):
    """The answers of two engines differ; the message says where."""


@dataclass(frozen=True)
class Pair:
    """Two engines to be compared, with the same weights.

    `compiled` may serve if all is equal; `reference` is TensorFlow's. `spec` is that of the policy, `serving` says
    which functions it has beside `action`. `noise`: for a function that takes noise as inputs and is not `sample`, so
    many rows, and a seed, those inputs. `original`: TensorFlow's own functions, where those of `reference` take noise.
    `aliases`: functions that are `action` under another name, in both engines. `probes`: inputs made before, by their
    rows, which no state and no weights are in; pairs of one spec may share them.
    """

    compiled: Engine
    reference: Engine
    spec: PolicySpec
    serving: ServingInfo
    noise: Callable[[str, int, int], Arrays] = lambda *_: {}
    original: Engine | None = None
    aliases: frozenset[str] = frozenset()
    probes: dict[int, list[Arrays]] = field(default_factory=dict)

    def noise_of(self, function: str, rows: int, seed: int) -> Arrays:
        """The inputs of a function that are noise, from a generator of that seed; none for one that takes none."""
        return probe_noise(self.serving.noise, rows, seed) if function == "sample" else self.noise(function, rows, seed)

    def probes_of_action(self, state: Arrays, rows: int) -> list[Arrays]:
        """Inputs of `action`; `state`: an initial one of so many rows."""
        if rows not in self.probes:
            self.probes[rows] = list(later_probes(self.spec, rows))
        return [probe_inputs(self.spec, state, rows), *self.probes[rows]]


def is_among(found: Arrays, answers: Arrays) -> bool:
    """Whether one row is like the rows of `answers`: integers as in some of them, and its floats between theirs."""
    floats = {name for name, array in answers.items() if np.issubdtype(array.dtype, np.floating)}
    integers = answers.keys() - floats
    alike = ~differing_rows(
        rows_of({n: found[n] for n in integers}, [0] * len(next(iter(answers.values())))),
        {n: answers[n] for n in integers},
    )
    if not alike.any():
        return False
    for name in floats:
        chosen = answers[name][alike] if integers else answers[name]
        low, high = chosen.min(axis=0), chosen.max(axis=0)
        margin = TOLERANCE + TOLERANCE * np.abs(high) + (high - low)  # they are a few of many
        if not ((found[name][0] >= low - margin) & (found[name][0] <= high + margin)).all():
            return False
    return True


def differing_rows(found: Arrays, expected: Arrays) -> np.ndarray[Any, Any]:
    """Compares outputs row by row: [rows] of whether any of them differs by more than rounding.

    Raises:
      Unequal: names, dtypes or shapes differ.
    """
    if found.keys() != expected.keys():
        raise Unequal(f"the outputs are {sorted(found)}, TensorFlow's {sorted(expected)}")
    differs: Any = np.zeros(1, bool)
    for name, wanted in expected.items():
        array = found[name]
        if (array.dtype, array.shape) != (wanted.dtype, wanted.shape):
            raise Unequal(f"{name} is {array.dtype} {array.shape}, TensorFlow's {wanted.dtype} {wanted.shape}")
        differs = differs | ~_close(array, wanted).reshape(len(wanted), -1).all(axis=1)
    return np.asarray(differs)


def _close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if np.issubdtype(expected.dtype, np.floating):
        return np.isclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    return np.asarray(found == expected)


def identical(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether they are equal to the last bit, NaNs at the same places."""
    return np.array_equal(one, other, equal_nan=bool(np.issubdtype(one.dtype, np.floating)))


def rows_of(arrays: Mapping[str, np.ndarray[Any, Any]], rows: Sequence[int]) -> Arrays:
    """Takes these rows of each array."""
    return {name: array[rows] for name, array in arrays.items()}


def nudged(array: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Floats changed by about what rounding may do (1e-6, relative); other dtypes as they are."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return np.asarray(array * (1 + _NUDGE * generator.standard_normal(array.shape)), array.dtype)
