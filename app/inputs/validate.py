"""A request's object → arrays that fit the policy's spec; or every problem found.

An `InputValidator` is made once for each policy: it knows every name that a field may be sent under.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from app.errors import DoesNotFit, Problem
from app.inputs.bounds import bounds_of
from app.inputs.defaults import default_leaves
from app.inputs.names import DEFAULTED, OPTIONS, Hint, names_of, request_name, top_level
from app.inputs.options import MOST_PROBLEMS, Options, read_options
from app.wire import json_body
from app.wire.limits import most_keys
from app.wire.long_lists import LongList, LongString, read_long
from app.wire.tensors import Array, Tensor, Unfit, all_finite, expected_text, outline, read_tensor, show
from saver.artifact import Leaf, Nest, PolicySpec, leaves


class Inputs(msgspec.Struct, frozen=True):
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


class InputValidator:
    """Reads the inputs of `action` and `distribution` for one policy."""

    def __init__(
        self, spec: PolicySpec, *, rows_limit: int, strict_bounds: bool = False, non_finite: bool = False
    ) -> None:
        self.rows_limit = rows_limit
        self.non_finite = non_finite
        self.strict_bounds = strict_bounds
        self._time_steps = spec.takes_time_step
        self._nests = top_level(spec)
        self.most_keys = most_keys(spec.inputs)
        self._names = names_of(self._nests)
        self._called = {top: request_name(top, self._nests) for top in self._nests}
        self.hint = Hint(spec, self._called)
        self._leaves = {leaf.name: leaf for _, leaf in leaves(spec.inputs)}
        self._state = [leaf.name for _, leaf in leaves(self._nests.get("policy_state", ()))]
        self._defaults = default_leaves(spec)
        self._bounds = {name: _bounds(leaf, self._is_step_type(name)) for name, leaf in self._leaves.items()}

    @property
    def required(self) -> frozenset[str]:
        """The flattened names of what no request may leave out."""
        return frozenset(name for name in self._leaves if not self._optional(name))

    def check_state_after(self, array: Array) -> None:
        """Checks a leaf of the policy state after a step, which the server is to keep for the next one.

        Raises:
          DoesNotFit: it is not finite, and such inputs are refused.
        """
        if not self.non_finite and not all_finite(array):
            expected = "an observation after which it is finite"
            raise DoesNotFit([Problem("observation", "the policy state after it is not finite", expected)])

    def read(self, body: dict[str, Any]) -> Inputs:
        """Reads the fields of `body` (without `options`) as arrays.

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
        """Takes the `options` out of the fields of a request; raises as `read_options` does."""
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
        if leaf.is_float and not self.strict_bounds:
            return int(outside.sum())
        first = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), outside.shape))
        index = "".join(f"[{i}]" for i in (first if tensor.batched else first[1:]))
        bounds = f"{_bound(low, array, first, 'any')} to {_bound(high, array, first, 'any')}"
        sent.problem(where + index, f"{array[first]}", f"{leaf.dtype} from {bounds}")
        return 0

    def _is_step_type(self, name: str) -> bool:
        return self._defaults.get(name, ("",))[0] == "step_type"


def _bounds(leaf: Leaf, step_type: bool) -> tuple[tuple[Any, Any], list[Callable[[Array], Array]]]:
    """The bounds of a leaf, and the checks that find items outside, but for what its dtype excludes anyway."""
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


def _rows(rows: int, batched: bool) -> str:
    return f"a batch of {rows} rows" if batched else "a single value"


def _bound(bound: Any, array: Array, index: tuple[int, ...], unbounded: str) -> str:
    if bound is None:
        return unbounded
    return str(np.broadcast_to(bound, array.shape)[index])
