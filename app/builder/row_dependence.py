"""Whether the rows of a call are answered one by one, or depend on each other: read off a policy's graph, and tried.

Where they depend on each other, a request may not share a call with another one. Three kinds are known: values of one
row in the answer of another (statistics of a batch, the first row's state for all), numbers that are drawn once for a
whole call, and variables that a call changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from app.background import rest
from app.builder import random_ops
from app.builder.equivalence_inputs import random_inputs
from app.builder.row_comparison import NUDGES, differing_rows, is_among, nudged, rows_of
from app.builder.unsupported import kinds
from app.engine.base import Engine
from app.engine.savedmodel.engine import FlatFunction, TensorFlowEngine
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec, ServingInfo
from saver.artifact.probe import probe_inputs, probe_noise
from saver.impure_ops import impurities

# Rows that are asked alone, and then among others: so many for the first version, and for those after it.
_ALONE, _ALONE_LATER = 12, 3
_SIZES, _SIZES_LATER = (2, 7, 67, 300, 1100, 4096), (7,)
# Of which two, that are not the same, stay as they are.
_LEAST_APART = 3
# Of one call's inputs: beyond, only the smaller calls are made.
_MOST_NUMBERS = 1 << 20
_POISONED = (2, 7, 67)
_SCALES = (1.0, 0.1, 20.0)
_Poison: TypeAlias = "Callable[[np.ndarray[Any, Any], np.random.Generator], np.ndarray[Any, Any]]"


@dataclass(frozen=True)
class Dependence:
    """Why the rows of a call are not independent; `mixes`: one row's answer depends on what other rows hold."""

    reason: str
    mixes: bool


class Rows:
    """Judges the versions of one graph. Rows that once depended on each other are taken to do so with any weights.

    Args:
      spec: of the policy.
      serving: its functions beside `action`.
    """

    def __init__(self, spec: PolicySpec, serving: ServingInfo) -> None:
        self._spec = spec
        self._serving = serving
        self._functions: list[_Function] = []
        self._judged_once = False
        self.dependence: Dependence | None = None

    def judge(
        self, engine: TensorFlowEngine, recorded: Sequence[Arrays] = (), again: bool = False
    ) -> Dependence | None:
        """Whether the rows of a version depend on each other; None where each row has an answer of its own.

        Args:
          engine: a copy with its weights. Calls of a policy that keeps state in variables change that.
          recorded: inputs of real requests, one row each.
          again: whether to look as closely as at the first version.
        """
        if self.dependence is None and self._spec.batch_size != 1:  # else there are no others
            self._judged_once = self._judged_once and not again
            self.dependence = self._judged(engine, recorded)
        return self.dependence

    def _judged(self, engine: TensorFlowEngine, recorded: Sequence[Arrays]) -> Dependence | None:
        first, self._judged_once = not self._judged_once, True
        if first:
            names = [n for n in ("distribution", "action", "sample", "greedy") if n in engine.functions]
            self._functions = [_Function.of(name, engine.functions[name]) for name in names]
            for function in self._functions:
                if function.impure and (why := _of_graph(engine, function, self._spec.batch_size)):
                    return Dependence(f"{function.name} {why}", mixes=False)
        judge = _Judge(engine, self._spec, self._serving, recorded, first)
        sampled = any(function.name == "sample" for function in self._functions)
        # One that draws is judged by that which takes the noise; later, the first stands for the networks of all.
        judged = [function for function in self._functions if not (function.draws and (sampled or not first))]
        try:
            if first and not impurities(engine.functions["get_initial_state"].concrete):
                judge.compare_initial_states()
            for function in judged if first else judged[:1]:
                judge.compare(function)
        except _Dependent as found:
            return Dependence(str(found), mixes=True)
        except Exception as error:  # whatever a graph makes of the inputs that are tried
            return Dependence(f"comparing its rows fails: {type(error).__name__}: {str(error)[:200]}", mixes=True)
        return None


def dependence_of_rows(engine: TensorFlowEngine, spec: PolicySpec, serving: ServingInfo) -> Dependence | None:
    """Judges one version; None where each row has an answer of its own."""
    return Rows(spec, serving).judge(engine)


@dataclass(frozen=True)
class _Function:
    """A function of the policy: its impure kinds of operations, whether it draws anew each time, and has loops."""

    name: str
    impure: tuple[str, ...]
    draws: bool
    loops: bool

    @classmethod
    def of(cls, name: str, function: FlatFunction) -> _Function:
        impure = tuple(impurities(function.concrete))
        loops = bool(kinds(function.concrete) & {"While", "StatelessWhile"})
        return cls(name, impure, random_ops.is_drawn(impure), loops)


class _Dependent(Exception):
    """The message says how, for a person."""


def _of_graph(engine: TensorFlowEngine, function: _Function, batch_size: int | None) -> str:
    """Why two requests may not share a call of a function that is not pure; "" where nothing is seen."""
    changing = [kind for kind in function.impure if random_ops.changes_state(kind)]
    if changing:
        return f"changes variables that all rows share ({changing[0]})"
    shared = random_ops.drawn_once(engine.functions[function.name], batch_size)
    return f"draws the same numbers for all rows of a call ({shared})" if shared else ""


class _Judge:
    """Runs one copy on chosen rows: alone, among others, and beside others of changed values."""

    def __init__(
        self,
        engine: TensorFlowEngine,
        spec: PolicySpec,
        serving: ServingInfo,
        recorded: Sequence[Arrays],
        first: bool,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._serving = serving
        self._first = first
        # One of each kind is enough for those after the first version: each call reads all weights.
        of_each, all_ = (_ALONE, None) if first else (_ALONE_LATER + 1, _ALONE_LATER)
        self._candidates = list(itertools.islice(_candidates(engine, spec, recorded, of_each), all_))
        numbers = sum(array.size for array in self._candidates[0].values())
        most = max(2, _MOST_NUMBERS // max(1, numbers))
        sizes = [min(size, most) for size in (_SIZES if first else _SIZES_LATER)]
        self._sizes = sorted(set(sizes)) if spec.batch_size is None else [spec.batch_size]

    def compare_initial_states(self) -> None:
        """Compares initial states of several sizes; raises `_Dependent` where a row depends on size or place."""
        if not self._spec.signatures["get_initial_state"].outputs or self._spec.batch_size is not None:
            return
        alone = self._engine.initial_state(1)
        for rows in self._sizes[:3]:
            repeated = rows_of(alone, [0] * rows)
            if differing_rows(self._engine.initial_state(rows), repeated).any():
                raise _Dependent(f"get_initial_state: a row alone differs from those of {rows}")

    def compare(self, wanted: _Function) -> None:
        """Compares rows alone, among others, and beside others of changed values; raises `_Dependent`.

        A function that draws is compared with what it draws replaced by fixed numbers, a row's own in each place.
        """
        function, engine = wanted.name, self._engine
        if wanted.draws:
            fixed = random_ops.without_chance(self._engine.functions[function])
            if fixed is None:
                return
            engine = TensorFlowEngine(self._engine.model, {function: fixed}, self._spec)
            engine.sharing = self._engine.sharing
        # Others that are no numbers might keep a loop from ending.
        poisons = _POISONS[: 2 if wanted.loops else 3]
        answered = list(self._answered(function, engine))
        if not answered:
            raise _Dependent(f"{function}: it answers none of the inputs that its rows were to be compared with")
        rows = {name: np.concatenate([row[name] for row, _ in answered]) for name in answered[0][0]}
        alone = {name: np.concatenate([outputs[name] for _, outputs in answered]) for name in answered[0][1]}
        if not self._first and not wanted.draws and self._stay_apart(engine, function, rows, alone, poisons[-1]):
            return
        generator = np.random.default_rng(len(answered))
        for size in self._sizes:
            chosen = generator.integers(0, len(answered), size)
            chosen[: len(answered)] = np.arange(len(answered))[:size]
            generator.shuffle(chosen)
            inputs = rows_of(rows, chosen.tolist())
            outputs = _run(engine, function, inputs)
            if outputs is None:
                raise _Dependent(f"{function}: it answers each of {size} rows alone, and not all at once")
            if not wanted.draws:
                self._compare_alone(function, inputs, outputs, rows_of(alone, chosen.tolist()))
            if size in _POISONED or self._spec.batch_size:
                self._compare_poisoned(engine, function, inputs, outputs, poisons)

    def _stay_apart(
        self, engine: TensorFlowEngine, function: str, rows: Arrays, alone: Arrays, poison: _Poison
    ) -> bool:
        """Whether rows beside others of changed values are answered as alone; False also where that cannot be said.

        One call in the place of two, of which each reads all weights.
        """
        size = self._sizes[-1]
        if self._spec.batch_size is not None or size < _LEAST_APART:
            return False
        stays = np.arange(size) % 2 == 0
        chosen = np.arange(size) // 2 % len(next(iter(rows.values())))
        inputs, generator = rows_of(rows, chosen.tolist()), np.random.default_rng(size)
        found = _run(engine, function, _poisoned(inputs, stays, poison, generator))
        return found is not None and not (_by_row(found, rows_of(alone, chosen.tolist()), size) & stays).any()

    def _compare_poisoned(
        self, engine: TensorFlowEngine, function: str, inputs: Arrays, outputs: Arrays, poisons: Sequence[_Poison]
    ) -> None:
        """Changes every other row; those between have to be answered as before, in a call of the same shape.

        Of a version after the first, the rows at one half of the places only, by the last of the poisons.
        """
        size = len(next(iter(inputs.values())))
        generator = np.random.default_rng(size)
        for kept, poison in itertools.product((0, 1), poisons) if self._first else [(0, poisons[-1])]:
            stays = np.arange(size) % 2 == kept
            found = _run(engine, function, _poisoned(inputs, stays, poison, generator))
            if found is None:
                continue  # it refuses such rows, which says nothing
            for name in outputs:
                if (_by_row({name: found[name]}, {name: outputs[name]}, size) & stays).any():
                    raise _Dependent(f"{function}: {name} of a row depends on what other rows hold")

    def _answered(self, function: str, engine: TensorFlowEngine) -> Iterator[tuple[Arrays, Arrays]]:
        """Rows that the policy answers, each with its answer alone."""
        for number, row in enumerate(self._candidates):
            inputs = row | (probe_noise(self._serving.noise, 1, number) if function == "sample" else {})
            outputs = _run(engine, function, inputs)
            if outputs is not None:
                yield inputs, outputs

    def _compare_alone(self, function: str, inputs: Arrays, found: Arrays, alone: Arrays) -> None:
        differing = np.flatnonzero(_by_row(found, alone, len(next(iter(inputs.values())))))
        judged: set[bytes] = set()
        for row in differing:
            one = rows_of(inputs, [row])
            key = repr([array.tolist() for array in one.values()]).encode()
            if key in judged:
                continue
            judged.add(key)
            # Each one alone: beside each other they would be such a batch as is judged here.
            generator = np.random.default_rng(row)
            near = [{n: nudged(a, generator) for n, a in one.items()} for _ in range(NUDGES)]
            answers = [_run(self._engine, function, inputs) for inputs in near]
            if not is_among(rows_of(found, [row]), _joined([answer for answer in answers if answer is not None])):
                name = next(n for n in found if _by_row({n: found[n]}, {n: alone[n]}, len(found[n]))[row])
                raise _Dependent(f"{function}: {name} of a row alone differs from that among {len(found[name])}")


def _by_row(found: Arrays, expected: Arrays, rows: int) -> np.ndarray[Any, Any]:
    """For each row, whether any output differs by more than rounding."""
    return np.broadcast_to(differing_rows(found, expected), rows)


def _joined(answers: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _poisoned(inputs: Arrays, stays: np.ndarray[Any, Any], poison: _Poison, generator: np.random.Generator) -> Arrays:
    """The inputs with all rows changed but those that stay."""
    return {name: np.where(_column(stays, array), array, poison(array, generator)) for name, array in inputs.items()}


def _column(flags: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return flags.reshape(-1, *[1] * (array.ndim - 1))


def _run(engine: TensorFlowEngine, function: str, inputs: Arrays) -> Arrays | None:
    """The answer; None where there is none."""
    rest()
    try:
        return engine.run(function, inputs)
    except Exception:  # whatever a graph makes TensorFlow raise
        return None


def _shuffled(array: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Other values of the same kind: each element from another row."""
    return np.asarray(generator.permuted(array, axis=0))


def _huge(array: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    if not np.issubdtype(array.dtype, np.floating):
        return _shuffled(array, generator)
    return np.asarray(generator.choice([-1e4, 1e4], array.shape), array.dtype)


def _not_a_number(array: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    if not np.issubdtype(array.dtype, np.floating):
        return _shuffled(array, generator)
    return np.full(array.shape, np.nan, array.dtype)


_POISONS: tuple[_Poison, ...] = (_shuffled, _huge, _not_a_number)


def _candidates(engine: Engine, spec: PolicySpec, recorded: Sequence[Arrays], count: int) -> Iterator[Arrays]:
    """Rows to ask, one by one: of real requests, from the start of an episode, and any with any state."""
    initial = spec.state_inputs(engine.initial_state(1))
    known = spec.signatures["action"].inputs
    for row in recorded[: count // 3]:
        yield initial | {name: array for name, array in row.items() if name in known}
    whole = probe_inputs(spec, engine.initial_state(count // 4), count // 4)
    yield from (rows_of(whole, [row]) for row in range(count // 4))
    for number in range(count):
        yield random_inputs(spec, 1, _SCALES[number % len(_SCALES)], np.random.default_rng(number))
