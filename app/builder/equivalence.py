"""A compiled policy beside TensorFlow's: the same inputs, the same answers, or the reason why it may not serve.

Integers and booleans are equal, floats within 1e-5 + 1e-5·|x|. A row may differ all the same where rounding decides, as
between two actions of the same value, or is made large, as in a wide network. There the answer has to be like those
that TensorFlow itself gives to inputs that differ by no more than rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.builder.equivalence_episodes import check_episodes
from app.builder.equivalence_inputs import probes_of_action
from app.builder.row_comparison import NUDGES, Pair, Unequal, differing_rows, identical, is_among, nudged, rows_of
from app.engine.base import Engine, InputRefused
from app.wire.tensors import Arrays


def check_equivalence(
    pair: Pair,
    rows: Sequence[int] = (1, 3, 16),
    recorded: Sequence[Arrays] = (),
    draws: bool = False,
    apart: bool = True,
) -> None:
    """Calls every function of the policy on probe inputs, in both engines.

    Args:
      pair: the two engines.
      rows: how many rows each of the calls has.
      recorded: inputs of real requests, one row each; `action` is called on them too.
      draws: whether `action` is answered by `sample` from fresh noise. Then `sample` is compared, with the same noise,
        and `action` has to give the same outputs as TensorFlow's, in kind.
      apart: whether a row has to be answered alone as it is among others; else all rows of a call belong together.

    Raises:
      Unequal: an answer differs: from TensorFlow's, between two calls, or for a row alone and among others.
    """
    spec, serving, reference = pair.spec, pair.serving, pair.reference
    first = "sample" if draws else "action"
    functions = [first, *(n for n in ("distribution", "greedy", "sample") if n in serving.signatures and n != first)]
    for count in rows:
        state = reference.initial_state(count)
        _check_same_state(pair.compiled.initial_state(count), state)
        for probe, inputs in enumerate(probes_of_action(spec, state, count)):
            for function in functions:
                noise = pair.noise_of(function, count, probe)
                comparison = _Comparison(pair, function, inputs | noise, apart)
                comparison.check()
                if noise and function != "sample":
                    comparison.check_fresh(inputs)
            if draws:
                _Comparison(pair, "action", inputs, apart).check_form()
    if not spec.batch_size or apart:
        check_episodes(pair, first)
    for probe, row in enumerate(recorded):
        known = {name: row[name] for name in spec.signatures["action"].inputs if name in row}
        inputs = spec.state_inputs(reference.initial_state(1)) | known
        _Comparison(pair, first, inputs | pair.noise_of(first, 1, probe), apart).check()


def _check_same_state(found: Arrays, expected: Arrays) -> None:
    differing = differing_rows(found, expected)
    if differing.any():
        raise Unequal(f"get_initial_state: row {int(differing.argmax())} differs from TensorFlow's")


class _Comparison:
    """One function and one batch of inputs."""

    def __init__(self, pair: Pair, function: str, inputs: Arrays, apart: bool) -> None:
        self._apart = apart
        self._compiled = pair.compiled
        self._reference = pair.reference
        self._original = pair.original
        self._function = function
        self._inputs = inputs

    def check(self) -> None:
        """Compares all values of the answers; raises `Unequal`."""
        answers = self._answers()
        if answers is None:
            return
        found, expected = answers
        self._compare(found, expected)
        again = self._compiled.run(self._function, self._inputs)
        if any(not identical(again[name], array) for name, array in found.items()):
            raise Unequal(f"{self._function}: two calls with the same inputs differ")
        if not self._apart:
            return
        rows = len(next(iter(self._inputs.values())))
        alone = [self._compiled.run(self._function, rows_of(self._inputs, [row])) for row in range(rows)]
        self._compare({n: np.concatenate([answer[n] for answer in alone]) for n in found}, expected)

    def check_form(self) -> None:
        """Compares names, dtypes and shapes, as the values are drawn; raises `Unequal`."""
        answers = self._answers()
        if answers is not None:
            differing_rows(*answers)

    def check_fresh(self, inputs: Arrays) -> None:
        """Compares names, dtypes and shapes of the answer to the same inputs without noise.

        Raises:
          Unequal: they differ, or the function refuses inputs that it answers where it draws for itself.
        """
        answers = self._answers()
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
