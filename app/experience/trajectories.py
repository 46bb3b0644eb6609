"""Pairs of a step and the next one → rows, as TF-Agents' `Trajectory` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from app.experience.event import HEAD_BYTES, MODES
from app.experience.layout import Layout, Values
from app.experience.pairing import Found
from app.experience.schema import STRING
from app.experience.sources import Sources
from app.experience.texts import Texts, joined
from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array
from saver.artifact import Leaf

Columns: TypeAlias = "dict[str, Array | list[Any] | Texts]"


def rows_of(layout: Layout, found: Found, sources: Sources) -> Columns:
    """Returns the rows of pairs by column: [rows, …]; lists where their shapes differ.

    A step that is not LAST gives no row where the next one is FIRST: its next observation was never sent.
    """
    counts = np.unique(found.first["rows"]).tolist()
    groups = []
    for rows in counts:
        mine = np.flatnonzero(found.first["rows"] == rows)
        groups.append(_group(layout, found.first.take(mine), found.next.take(mine), sources))
    if not groups:
        return _none(layout)
    return groups[0] if len(groups) == 1 else {name: _joined([each[name] for each in groups]) for name in groups[0]}


def _none(layout: Layout) -> Columns:
    empty: Columns = {}
    for column in layout.columns:
        shape = (0, *(1 if size is None else size for size in column.shape))
        is_text = column.dtype == STRING
        storage = Leaf(column.name, column.dtype, column.shape).storage
        empty[column.name] = [] if is_text and not column.shape else np.empty(shape, storage)
    return empty


def _group(layout: Layout, steps: Array, nexts: Array, sources: Sources) -> Columns:
    """Returns the rows of pairs of steps that have as many rows each."""
    rows = int(steps["rows"][0])
    values, following = (_values(layout, each, rows, sources) for each in (steps, nexts))
    step_type, next_step_type = np.asarray(values["step_type"]), np.asarray(following["step_type"])
    columns: Columns = {"next_step_type": next_step_type}
    for column, _, _ in layout.forms:
        source = following if column == "discount" or column.split("/")[0] == "reward" else values
        columns[column] = source[column]
    columns |= _numbers(steps, rows)
    columns |= _texts(steps, rows, sources)
    keeps = (next_step_type != FIRST) | (step_type == LAST)
    return columns if keeps.all() else _taken(columns, np.flatnonzero(keeps))


def _values(layout: Layout, steps: Array, rows: int, sources: Sources) -> Values:
    if not layout.is_fixed:
        return layout.varying_values([sources.record(step) for step in steps], rows)
    values: Values = {**layout.values(sources.taken(steps, HEAD_BYTES + rows * layout.row_bytes), rows)}
    return values


def _numbers(steps: Array, rows: int) -> Columns:
    numbers: Columns = {name: np.repeat(steps[name], rows) for name in ("train_step", "step", "time_ns", "seed")}
    numbers["row"] = np.tile(np.arange(rows, dtype=np.int32), len(steps))
    return numbers


def _texts(steps: Array, rows: int, sources: Sources) -> Columns:
    sessions, of_sessions = np.unique(steps["session"], return_inverse=True)
    versions, of_versions = np.unique(steps["version"], return_inverse=True)
    whos = [sources.who(number) for number in sessions.tolist()]
    names = [sources.version(number) for number in versions.tolist()]
    session, version, mode = (np.repeat(each, rows) for each in (of_sessions, of_versions, steps["mode"]))
    return {
        "session": Texts([who.session for who in whos], session, sources.keys(sessions)),
        "run_id": Texts([who.run_id for who in whos], session),
        "incarnation": Texts([who.incarnation for who in whos], session),
        "version": Texts(names, version),
        "mode": Texts(MODES, mode),
    }


def _taken(columns: Columns, kept: Array) -> Columns:
    """Returns some of the rows."""
    found: Columns = {}
    for name, values in columns.items():
        if isinstance(values, Texts):
            found[name] = values.taken(kept)
        else:
            found[name] = [values[row] for row in kept.tolist()] if isinstance(values, list) else values[kept]
    return found


def _joined(parts: Sequence[Array | list[Any] | Texts]) -> Array | list[Any] | Texts:
    texts = [part for part in parts if isinstance(part, Texts)]
    if texts:
        return joined(texts)
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for part in parts for row in part]
