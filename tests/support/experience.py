"""Rows of experience, made and appended without a server, for what follows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.experience import schema
from app.experience.pages import encode, read_page
from app.experience.query import Query
from app.experience.row_log import RowLog
from app.experience.schema import STRING, Column
from app.wire import json_body

FIRST, MID, LAST = 0, 1, 2


class Simulator:
    """An environment whose episodes have `length` steps: rows as a session of it gives them, boundaries too."""

    def __init__(self, session: str = "s", length: int = 5, train_step: int = 0, row: int = 0) -> None:
        self.session = session
        self.length = length
        self.train_step = train_step
        self.row = row
        self.steps = 0

    def next(self) -> dict[str, Any]:
        at, self.steps = self.steps, self.steps + 1
        return {
            "step_type": self._step_type(at),
            "next_step_type": self._step_type(at + 1),
            "session": self.session,
            "incarnation": "one",
            "row": self.row,
            "step": at + 1,
            "train_step": self.train_step,
            "reward": float(at),
        }

    def _step_type(self, at: int) -> int:
        place = at % (self.length + 1)
        return FIRST if place == 0 else LAST if place == self.length else MID


def rows_of(columns: Sequence[Column], given: Sequence[dict[str, Any]], size: int = 3) -> dict[str, Any]:
    """Returns rows by column: what is given of each, and for the rest values that no two rows share.

    `size`: of dimensions that the columns leave open.
    """
    return {column.name: _values(column, given, size) for column in columns}


def _values(column: Column, given: Sequence[dict[str, Any]], size: int) -> Any:
    if given and column.name in given[0]:
        values = [row[column.name] for row in given]
        return values if column.dtype == STRING else np.array(values, column.dtype)
    shape = tuple(size if each is None else each for each in column.shape)
    numbers = np.arange(len(given) * int(np.prod(shape, dtype=int))).reshape(len(given), *shape)
    if column.dtype == STRING:
        return np.vectorize(str, otypes=[object])(numbers).tolist()
    return (numbers % 2 if column.dtype == "bool" else numbers % 100).astype(_storage(column.dtype))


def _storage(dtype: str) -> Any:
    return np.float32 if dtype == "bfloat16" else np.dtype(dtype)


# The columns of a policy as simple as CartPole's.
COLUMNS = (
    Column("step_type", "int32"),
    Column("observation", "float32", (4,)),
    Column("action", "int64"),
    Column("next_step_type", "int32"),
    Column("reward", "float32"),
    Column("discount", "float32"),
    *schema.BESIDE,
)


def append_steps(log: RowLog, simulators: Sequence[Simulator], count: int = 1, **consumed: int) -> None:
    """Appends the next so many rows of each."""
    log.append(rows_of(log.columns, [each.next() for _ in range(count) for each in simulators]), consumed)


class ChangedMeanwhile(dict[Any, Any]):
    """A dict to which another thread adds an entry whenever one goes through it entry by entry."""

    def items(self) -> Any:
        for place, item in enumerate(super().items()):
            yield item
            self[f"another {place} of {len(self)}"] = item[1]


class Reading:
    """A reader that goes through a log from row `at`, page by page."""

    def __init__(self, log: RowLog, at: int = 0, **query: Any) -> None:
        self.log = log
        self.at = at
        self.query = Query(**query)
        self.lost = 0

    def page(self) -> dict[str, Any]:
        page = read_page(self.log, self.query, self.at)
        self.at, self.lost = page.next, self.lost + page.lost_rows
        return json_body.decode(encode(page, "", as_msgpack=False))

    def rest(self) -> list[dict[str, Any]]:
        """All rows that are left, one dict each."""
        found: list[dict[str, Any]] = []
        while (page := self.page())["rows"]:
            names = page["columns"]
            found += [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]
        return found
