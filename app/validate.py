"""A request's object → arrays that fit the policy's spec; or every problem found.

An `InputReader` is made once for each policy: it knows every name that a field may be sent under. `Defaults` knows what
stands for that which a request leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from app.errors import DoesNotFit, Problem
from app.names import DEFAULTED, OPTIONS, Hint, names_of, request_name, top_level
from app.wire import json_body
from app.wire.limits import most_keys
from app.wire.long_lists import LongList, LongString, read_long
from app.wire.tensors import Array, Arrays, Tensor, Unfit, expected_text, outline, read_tensor, show
from saver.artifact import Leaf, Nest, PolicySpec, leaves

FIRST, MID, LAST = 0, 1, 2
LONGEST_TIMEOUT_MS = 600_000
# More would help nobody, and an answer should not be larger than its question.
MOST_PROBLEMS = 20
# Defaults for so many rows are there at once, those for more are made when they are needed.
_ROWS_KEPT = 1024


@dataclass(frozen=True)
class Options:
    """What a request asks beside its input; None where it does not."""

    mode: Literal["sample", "greedy"] | None = None
    seed: int | None = None
    log_prob: bool = False
    min_train_step: int | None = None
    timeout_ms: int | None = None


class Inputs(NamedTuple):
    """Arrays [rows, …] by flattened name: what was sent.

    `needs_state`: the policy has state and none was sent, so the initial state is to be used.
    `outside_bounds`: how many floats lie outside the bounds of the spec.
    """

    arrays: dict[str, Array]
    rows: int
    batched: bool
    needs_state: bool
    outside_bounds: int


@dataclass
class _Sent:
    """The fields of one request, by flattened name, as they are found."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    wheres: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, where: str, problem: str, expected: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(where[:200], problem, expected))


class InputReader:
    """Reads the inputs of `action` and `distribution` for one policy."""

    def __init__(
        self, spec: PolicySpec, *, rows_limit: int, strict_bounds: bool = False, non_finite: bool = False
    ) -> None:
        self.rows_limit = rows_limit
        self.non_finite = non_finite
        self._strict_bounds = strict_bounds
        self._time_steps = spec.takes_time_step
        self._nests = top_level(spec)
        self.most_keys = most_keys(spec.inputs)
        self._names = names_of(self._nests)
        self._called = {top: request_name(top, self._nests) for top in self._nests}
        self.hint = Hint(spec, self._called)
        self._leaves = {leaf.name: leaf for _, leaf in leaves(spec.inputs)}
        self._state = [leaf.name for _, leaf in leaves(self._nests.get("policy_state", ()))]
        self._defaults = _default_leaves(spec)
        self._bounds = {name: _bounds(leaf, self._is_step_type(name)) for name, leaf in self._leaves.items()}

    def read(self, body: dict[str, Any]) -> Inputs:
        """The fields of `body` (without `options`) as arrays.

        Raises:
          DoesNotFit: lists every problem: unknown, missing, doubled, of the wrong shape, dtype or value.
        """
        sent = _Sent()
        for key, raw in body.items():
            nest = self._names.get(key)
            if key == "policy_state" and raw is None:
                continue  # what an answer without state gives a client to send back
            if nest is None and not (key == "policy_state" and isinstance(raw, list | dict) and not raw):
                self.hint.check(body, key, self._names)
                sent.problem(key, "is no field of this policy", self.hint.expected(key))
            elif nest is not None:
                self._collect(nest, raw, key, sent)
            if len(sent.problems) >= MOST_PROBLEMS:
                raise DoesNotFit(sent.problems)
        self._check_presence(sent)
        rows, batched = self._agree_on_rows(sent)
        outside = sum(self._check_values(name, tensor, sent) for name, tensor in sent.tensors.items())
        if sent.problems:
            raise DoesNotFit(sent.problems)
        arrays = {name: tensor.array for name, tensor in sent.tensors.items()}
        needs_state = bool(self._state) and self._state[0] not in arrays
        return Inputs(arrays, rows, batched, needs_state, outside)

    def take_options(self, body: dict[str, Any]) -> Options:
        """The `options` of a request, which are taken out of its fields; raises as `read_options` does."""
        try:
            return read_options(body.pop(OPTIONS, {}))
        except DoesNotFit as error:
            if OPTIONS not in self._nests:
                raise
            own = f"; the policy's own field of that name is {self._called[OPTIONS]}"
            raise DoesNotFit(
                [replace(problem, expected=problem.expected + own) for problem in error.problems]
            ) from None

    def _collect(self, nest: Nest, raw: Any, where: str, sent: _Sent) -> None:
        """Walks nest and value side by side, down to the leaves."""
        if isinstance(nest, dict):
            if not isinstance(raw, dict):
                sent.problem(where, show(raw), f"an object with {', '.join(nest)}")
                return
            for key, value in raw.items():
                if key in nest:
                    self._collect(nest[key], value, f"{where}.{key}", sent)
                else:
                    sent.problem(f"{where}.{key}", "is no field of this policy", f"one of {', '.join(nest)}")
                if len(sent.problems) >= MOST_PROBLEMS:
                    return
        elif isinstance(nest, tuple):
            if isinstance(raw, LongList):
                raw = raw.children(len(nest))
            if not isinstance(raw, list) or len(raw) != len(nest):
                came = f"more than {len(nest)} items" if raw is None and where else show(raw)
                sent.problem(where, came, f"a list of {len(nest)} items")
                return
            for index, child in enumerate(nest):
                self._collect(child, raw[index], f"{where}[{index}]", sent)
        elif nest.name in sent.wheres:
            sent.problem(where, f"is given twice, also as {sent.wheres[nest.name]}", "one of the two")
        elif isinstance(raw, list) and len(raw) > self.rows_limit and len(outline(raw)) > len(nest.shape):
            sent.wheres[nest.name] = where  # before anything is read: it may be millions of rows
            sent.problem(where, f"{len(raw)} rows", f"at most {self.rows_limit} rows in one request")
        else:
            sent.wheres[nest.name] = where
            try:
                if isinstance(raw, LongString):
                    raw = raw.read(nest, where, json_body.decode_string)
                if isinstance(raw, LongList):
                    sent.tensors[nest.name] = read_long(raw, nest, where, self.rows_limit, self.non_finite)
                else:
                    sent.tensors[nest.name] = read_tensor(raw, nest, where, self.non_finite)
            except Unfit as unfit:
                sent.problems.append(unfit.problem)

    def _check_presence(self, sent: _Sent) -> None:
        for top, nest in self._nests.items():
            name = self._called[top]
            paths = [(path, leaf) for path, leaf in leaves(nest, name) if leaf.name not in sent.wheres]
            optional = self._time_steps and top in DEFAULTED
            if optional and (top != "policy_state" or len(paths) == len(self._state)):
                continue
            for path, leaf in paths:
                sent.problem(name + path[len(name) :].replace("/", "."), "is missing", expected_text(leaf))

    def _agree_on_rows(self, sent: _Sent) -> tuple[int, bool]:
        """All fields are one value, or batches of the same number of rows."""
        if not sent.tensors:
            return 0, False
        by_importance = sorted(sent.tensors, key=lambda name: self._optional(name))
        lead = by_importance[0]
        rows, batched = len(sent.tensors[lead].array), sent.tensors[lead].batched
        for name in by_importance:
            tensor = sent.tensors[name]
            if (len(tensor.array), tensor.batched) != (rows, batched):
                sent.problem(
                    sent.wheres[name],
                    _rows(len(tensor.array), tensor.batched),
                    f"{_rows(rows, batched)}, as in {sent.wheres[lead]}",
                )
        if rows == 0:
            sent.problem(sent.wheres[lead], "a batch of zero rows", "at least one row")
        if rows > self.rows_limit:
            sent.problem(sent.wheres[lead], f"{rows} rows", f"at most {self.rows_limit} rows in one request")
        return rows, batched

    def _optional(self, name: str) -> bool:
        return name in self._defaults or name in self._state

    def _check_values(self, name: str, tensor: Tensor, sent: _Sent) -> int:
        """Refuses integers (with strict bounds, floats too) out of bounds; counts floats that pass."""
        leaf, where = self._leaves[name], sent.wheres[name]
        (low, high), checks = self._bounds[name]
        if not checks:
            return 0
        array = tensor.array
        outside = np.zeros(array.shape, bool)
        for check in checks:
            outside |= check(array)
        if not outside.any():
            return 0
        if leaf.is_float and not self._strict_bounds:
            return int(outside.sum())
        first = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), outside.shape))
        index = "".join(f"[{i}]" for i in (first if tensor.batched else first[1:]))
        bounds = f"{_bound(low, array, first, 'any')} to {_bound(high, array, first, 'any')}"
        sent.problem(where + index, f"{array[first]}", f"{leaf.dtype} from {bounds}")
        return 0

    def _is_step_type(self, name: str) -> bool:
        return self._defaults.get(name, ("",))[0] == "step_type"


def bounds_of(leaf: Leaf, step_type: bool) -> tuple[Any, Any]:
    """The least and the most that a leaf may hold, None where it has no bound; `step_type`: that of a time step."""
    return (FIRST, LAST) if step_type else (leaf.minimum, leaf.maximum)


def _bounds(leaf: Leaf, step_type: bool) -> tuple[tuple[Any, Any], list[Callable[[Array], Array]]]:
    """The bounds of a leaf, and what tells which items lie outside, but for what its dtype cannot hold anyway."""
    low, high = bounds_of(leaf, step_type)
    checks: list[Callable[[Array], Array]] = []
    if not (leaf.is_integer or leaf.is_float):
        return (low, high), checks
    limits = np.iinfo(leaf.dtype) if leaf.is_integer else None
    if low is not None and not (limits and np.all(np.asarray(low, object) <= limits.min)):
        checks.append(lambda array: array < low)
    if high is not None and not (limits and np.all(np.asarray(high, object) >= limits.max)):
        checks.append(lambda array: array > high)
    return (low, high), checks


class Defaults:
    """What stands for the fields of a time step that a request leaves out."""

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._leaves = _default_leaves(spec)
        self._made = {first: self._defaults(_ROWS_KEPT, first) for first in (False, True)}
        # Views of these, by their rows.
        self._kept: dict[bool, dict[int, Arrays]] = {False: {}, True: {}}

    def complete(self, inputs: Arrays, rows: int, initial: Arrays | None, begins: Array | None = None) -> Arrays:
        """All inputs of `action`: reward 0, discount 1, step type MID; FIRST and the initial state where that is given.

        Args:
          inputs: [rows, …] by flattened name, as they were sent.
          rows: how many there are.
          initial: the policy state at the start of an episode, by the names of `get_initial_state`; None where the
            policy has none, or where it was sent.
          begins: [rows] booleans, where the `inputs` hold a policy state and only these rows start from `initial`.
        """
        whole = self._of_rows(rows, initial is not None and begins is None) | inputs
        if not initial:
            return whole
        state = self._spec.state_inputs(initial)
        if begins is not None:
            state = {name: np.where(_column(begins, array), array, whole[name]) for name, array in state.items()}
        return whole | state

    def _of_rows(self, rows: int, first: bool) -> Arrays:
        if rows > _ROWS_KEPT:
            return self._defaults(rows, first)
        kept = self._kept[first].get(rows)
        if kept is None:
            kept = {name: array[:rows] for name, array in self._made[first].items()}
            self._kept[first][rows] = kept
        return kept

    def _defaults(self, rows: int, first: bool) -> Arrays:
        return {name: _default(top, leaf, rows, first) for name, (top, leaf) in self._leaves.items()}


def _column(rows: Array, beside: Array) -> Array:
    """[rows] with as many dimensions as another array."""
    return rows.reshape(-1, *[1] * (beside.ndim - 1))


def read_options(raw: Any) -> Options:
    """The `options` of a request.

    Raises:
      DoesNotFit: an unknown option, or a value of the wrong kind; lists all of them.
    """
    if not isinstance(raw, dict):
        raise DoesNotFit([Problem("options", show(raw), f"an object with {', '.join(_OPTIONS)}")])
    problems: list[Problem] = []
    for name, value in raw.items():
        if len(problems) == MOST_PROBLEMS:
            break
        if name not in _OPTIONS:
            problems.append(Problem(f"options.{name}"[:200], "is no option", f"one of {', '.join(_OPTIONS)}"))
        elif not _OPTIONS[name][0](value):
            problems.append(Problem(f"options.{name}", show(value), _OPTIONS[name][1]))
    if problems:
        raise DoesNotFit(problems)
    return Options(**raw)


def _is_integer_in(low: int, high: int) -> Any:
    return lambda value: type(value) is int and low <= value <= high


_OPTIONS: dict[str, tuple[Any, str]] = {
    "mode": (lambda value: isinstance(value, str) and value in ("sample", "greedy"), '"sample" or "greedy"'),
    "seed": (_is_integer_in(0, 2**63 - 1), "an integer from 0 to 2^63 - 1"),
    "log_prob": (lambda value: type(value) is bool, "true or false"),
    "min_train_step": (_is_integer_in(-(2**63), 2**63 - 1), "an integer"),
    "timeout_ms": (_is_integer_in(1, LONGEST_TIMEOUT_MS), f"an integer from 1 to {LONGEST_TIMEOUT_MS}"),
}


def _default_leaves(spec: PolicySpec) -> dict[str, tuple[str, Leaf]]:
    """The leaves that a request may leave out: flattened name → its field and itself."""
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


def _rows(rows: int, batched: bool) -> str:
    return f"a batch of {rows} rows" if batched else "a single value"


def _bound(bound: Any, array: Array, index: tuple[int, ...], unbounded: str) -> str:
    if bound is None:
        return unbounded
    return str(np.broadcast_to(bound, array.shape)[index])
