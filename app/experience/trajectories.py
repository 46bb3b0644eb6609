"""Pairs of a step's event and the next one's → rows, as TF-Agents' `Trajectory` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from app.experience.event import HEADS, LEAST_BYTES, MODES, Event, Pair, Who
from app.experience.layout import Layout
from app.experience.schema import STRING
from app.inputs.defaults import FIRST, LAST
from app.wire.tensors import Array
from saver.artifact import Leaf

Columns: TypeAlias = "dict[str, Array | list[str]]"


def rows_of(layout: Layout, pairs: Sequence[Pair]) -> Columns:
    """Returns the rows of pairs of events by column: [rows, …], or lists of strings.

    A step that is not LAST gives no row where the next one is FIRST: its next observation was never sent.
    """
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].head.rows, []).append(pair)
    found = [_group(layout, rows, group) for rows, group in groups.items()]
    if len(found) == 1:
        return found[0]
    return {column: _joined([group[column] for group in found]) for column in found[0]} if found else _none(layout)


def _none(layout: Layout) -> Columns:
    empty: Columns = {}
    for column in layout.columns:
        shape = (0, *(1 if size is None else size for size in column.shape))
        is_text = column.dtype == STRING
        storage = Leaf(column.name, column.dtype, column.shape).storage
        empty[column.name] = [] if is_text and not column.shape else np.empty(shape, storage)
    return empty


def _group(layout: Layout, rows: int, pairs: list[Pair]) -> Columns:
    """Returns the rows of pairs whose events have so many rows each."""
    events = layout.values([event for event, _ in pairs], rows)
    nexts = layout.values([after for _, after in pairs], rows)
    step_type, next_step_type = events["step_type"], nexts["step_type"]
    keeps = (next_step_type != FIRST) | (step_type == LAST)
    columns: Columns = {"next_step_type": next_step_type}
    for column, _, _ in layout.forms:
        source = nexts if column == "discount" or column.split("/")[0] == "reward" else events
        columns[column] = source[column]
    columns |= _numbers([event for event, _ in pairs], rows)
    columns |= _texts([event for event, _ in pairs], rows)
    if keeps.all():
        return columns
    kept = np.flatnonzero(keeps).tolist()
    return {
        name: [values[i] for i in kept] if isinstance(values, list) else values[kept]
        for name, values in columns.items()
    }


def _joined(parts: Sequence[Array | list[str]]) -> Array | list[str]:
    if isinstance(parts[0], list):
        return [text for part in parts for text in part]
    return np.concatenate(parts)


def _numbers(events: list[Event], rows: int) -> Columns:
    heads = np.frombuffer(b"".join([event.data[:LEAST_BYTES] for event in events]), HEADS)
    numbers: Columns = {
        name: np.repeat(heads[name], rows).astype(np.int64) for name in ("train_step", "step", "time_ns", "seed")
    }
    numbers["row"] = np.tile(np.arange(rows, dtype=np.int32), len(events))
    return numbers


def _texts(events: list[Event], rows: int) -> Columns:
    names: dict[bytes, Who] = {}
    whos = [names.get(event.key) or names.setdefault(event.key, event.who()) for event in events]
    texts: dict[str, list[str]] = {
        "session": [who.session for who in whos],
        "run_id": [who.run_id for who in whos],
        "incarnation": [who.incarnation for who in whos],
        "version": [event.version() for event in events],
        "mode": [MODES[event.head.mode] for event in events],
    }
    return {name: values if rows == 1 else [v for v in values for _ in range(rows)] for name, values in texts.items()}
