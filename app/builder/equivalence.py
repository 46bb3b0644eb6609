"""A compiled policy beside TensorFlow's: the same inputs, the same answers, or the reason why it may not serve.

Integers and booleans are equal, floats within 1e-5 + 1e-5·|x|. A row may differ all the same where rounding decides, as
between two actions of the same value, or is made large, as in a wide network. There the answer has to be like those
that TensorFlow itself gives to inputs that differ by no more than rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.background import rest
from app.builder.equivalence_episodes import check_episodes
from app.builder.row_comparison import NUDGES, Pair, Unequal, differing_rows, identical, is_among, nudged, rows_of
from app.engine.base import Engine, InputRefused
from app.engine.noise import OF_A_CALL
from app.wire.tensors import Arrays

# Rows of a call that is made of several: more than those of all probes that have three each.
_MOST_JOINED = 24


def check_equivalence(
    pair: Pair,
    rows: Sequence[int] = (1, 3, 16),
    recorded: Sequence[Arrays] = (),
    draws: bool = False,
    apart: bool = True,
    joined: bool = False,
) -> None:
    """Calls every function of the policy on probe inputs, in both engines.

    Args:
      pair: the two engines.
      rows: how many rows each of the calls has.
      recorded: inputs of real requests, one row each; `action` is called on them too.
      draws: whether `action` is answered by `sample` from fresh noise. Then `sample` is compared, with the same noise,
        and `action` has to give the same outputs as TensorFlow's, in kind.
      apart: whether a row has to be answered alone as it is among others; else all rows of a call belong together.
      joined: whether calls may be made one, where rows are answered apart: the same rows are compared, in few calls.
        What is `action` under another name is not compared again.

    Raises:
      Unequal: an answer differs: from TensorFlow's, between two calls, or for a row alone and among others.
    """
    spec, serving, reference = pair.spec, pair.serving, pair.reference
    first = "sample" if draws else "action"
    functions = [first, *(n for n in ("distribution", "greedy", "sample") if n in serving.signatures and n != first)]
    functions = [name for name in functions if not (joined and name in pair.aliases)]
    most_rows = _MOST_JOINED if joined and apart else 1
    for count in rows:
        state = reference.initial_state(count)
        _check_same_state(pair.compiled.initial_state(count), state)
        probes = pair.probes_of_action(state, count)
        for function in functions:
            comparisons = [
                _Comparison(pair, function, inputs, apart, pair.noise_of(function, count, probe))
                for probe, inputs in enumerate(probes)
            ]
            _check_all(comparisons, most_rows // count)
            for comparison in comparisons:
                comparison.check_fresh()
        for inputs in probes if draws else ():
            _Comparison(pair, "action", inputs, apart).check_form()
    if not spec.batch_size or apart:
        check_episodes(pair, first)
    if recorded:
        state = spec.state_inputs(reference.initial_state(1))
        wanted = spec.signatures["action"].inputs
        asked = [state | {name: row[name] for name in wanted if name in row} for row in recorded]
        comparisons = [
            _Comparison(pair, first, inputs, apart, pair.noise_of(first, 1, probe))
            for probe, inputs in enumerate(asked)
        ]
        _check_all(comparisons, most_rows)


def _check_all(comparisons: Sequence[_Comparison], most: int) -> None:
    """Makes each comparison; `most`: so many of them by one call, where that is possible."""
    most = max(1, most)
    for start in range(0, len(comparisons), most):
        some = comparisons[start : start + most]
        joined = _Comparison.joined(some) if len(some) > 1 else None
        if joined is None or not joined.check_joined():
            for each in some:
                each.check()


def _check_same_state(found: Arrays, expected: Arrays) -> None:
    differing = differing_rows(found, expected)
    if differing.any():
        raise Unequal(f"get_initial_state: row {int(differing.argmax())} differs from TensorFlow's")


class _Comparison:
    """One function and one batch of inputs. `noise`: what of its inputs is drawn."""

    def __init__(self, pair: Pair, function: str, inputs: Arrays, apart: bool, noise: Arrays | None = None) -> None:
        self._apart = apart
        self._compiled = pair.compiled
        self._reference = pair.reference
        self._original = pair.original
        self._function = function
        self._without_noise = inputs
        self._noise = noise or {}
        self._inputs = inputs | self._noise

    @classmethod
    def joined(cls, some: Sequence[_Comparison]) -> _Comparison | None:
        """Makes one of several of one function, in which each row is answered apart; None where their inputs differ."""
        inputs = [each._inputs for each in some]
        kinds = {tuple((name, array.dtype, array.shape[1:]) for name, array in one.items()) for one in inputs}
        if len(kinds) > 1 or not inputs[0].keys().isdisjoint(OF_A_CALL):
            return None
        joined = copy.copy(some[0])
        joined._inputs = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        return joined

    def check(self) -> None:
        """Compares all values of the answers; raises `Unequal`."""
        answers = self._answers()
        if answers is not None:
            self._check(*answers)

    def check_joined(self) -> bool:
        """Does the same; returns False, with nothing compared, where one row or another is refused."""
        expected, found = self._answer(self._reference), self._answer(self._compiled)
        if expected is None or found is None:
            return False
        self._check(found, expected)
        return True

    def _check(self, found: Arrays, expected: Arrays) -> None:
        self._compare(found, expected)
        again = self._compiled.run(self._function, self._inputs)
        if any(not identical(again[name], array) for name, array in found.items()):
            raise Unequal(f"{self._function}: two calls with the same inputs differ")
        if not self._apart:
            return
        rows = len(next(iter(self._inputs.values())))
        alone = [self._alone(row) for row in range(rows)]
        self._compare({n: np.concatenate([answer[n] for answer in alone]) for n in found}, expected)

    def _alone(self, row: int) -> Arrays:
        rest()
        return self._compiled.run(self._function, rows_of(self._inputs, [row]))

    def check_form(self) -> None:
        """Compares names, dtypes and shapes, as the values are drawn; raises `Unequal`."""
        answers = self._answers()
        if answers is not None:
            differing_rows(*answers)

    def check_fresh(self) -> None:
        """Compares names, dtypes and shapes of the answer to the same inputs without noise; not of `sample`.

        Raises:
          Unequal: they differ, or the function refuses inputs that it answers where it draws for itself.
        """
        if not self._noise or self._function == "sample":
            return
        inputs, answers = self._without_noise, self._answers()
        if answers is not None:
            differing_rows(self._compiled.run(self._function, inputs), answers[1])
        elif self._original is not None and _answers(self._original, self._function, inputs):
            raise Unequal(f"{self._function}: with its noise as an input it refuses what TensorFlow answers")

    def _answers(self) -> tuple[Arrays, Arrays] | None:
        """What the compiled policy and TensorFlow say; None where both refuse."""
        expected, found = self._answer(self._reference), self._answer(self._compiled)
        if expected is None or found is None:
            if expected is not found:
                raise Unequal(f"{self._function}: {'LiteRT' if found is None else 'TensorFlow'} refuses a probe input")
            return None
        return found, expected

    def _answer(self, engine: Engine) -> Arrays | None:
        rest()
        try:
            return engine.run(self._function, self._inputs)
        except InputRefused:
            return None
        except RuntimeError as error:  # LiteRT's own
            raise Unequal(f"{self._function}: {engine.name} fails on a probe input: {str(error)[:200]}") from error

    def _compare(self, found: Arrays, expected: Arrays) -> None:
        for row in np.flatnonzero(differing_rows(found, expected)):
            if not self._rounding_decides(row, rows_of(found, [row])):
                names = [n for n in expected if differing_rows({n: found[n]}, {n: expected[n]})[row]]
                raise Unequal(
                    f"{self._function}: {names[0]} is {_shown(found[names[0]][row])} for a probe input, "
                    f"TensorFlow says {_shown(expected[names[0]][row])}"
                )

    def _rounding_decides(self, row: int, found: Arrays) -> bool:
        """Whether TensorFlow gives the same answer to an input that is the same up to rounding."""
        generator = np.random.default_rng(row)
        near = rows_of(self._inputs, [row] * NUDGES) if self._apart else self._inputs
        calls = 1 if self._apart else NUDGES
        answers = []
        try:
            for _ in range(calls):
                inputs = {name: nudged(array, generator) for name, array in near.items()}
                answers.append(self._reference.run(self._function, inputs))
        except InputRefused:
            return False
        if not self._apart:  # with all that it belongs to
            answers = [rows_of(answer, [row]) for answer in answers]
        return is_among(found, {name: np.concatenate([answer[name] for answer in answers]) for name in found})


def _answers(engine: Engine, function: str, inputs: Arrays) -> bool:
    try:
        engine.run(function, inputs)
    except InputRefused:
        return False
    return True


def _shown(value: Any) -> str:
    text = np.array2string(np.asarray(value), threshold=6, edgeitems=2)
    return " ".join(text.split())[:80]
