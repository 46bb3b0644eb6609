"""A place in a row log → the rows that follow it, as many as one answer may have; and the bytes of that answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from app.experience.arrow import EPISODE, EPISODE_STEP, OF_EPISODE, columns_in, values_of
from app.experience.environments import NO_EPISODE
from app.experience.query import Query
from app.inputs.defaults import LAST
from app.wire.codecs import JSON, MSGPACK
from app.wire.tensors import Array

# Of an answer, in memory: the next one comes at once, and no worker passes on anything else meanwhile. An episode that
# is larger is an answer by itself.
_MOST_BYTES = 4 * 2**20
_MOST_EPISODE_BYTES = 64 * 2**20
# As text, numbers take some times what they take in memory.
_TEXT_FACTOR = 4
# A search in a long log is interrupted after so long, and goes on from there: others are to be answered meanwhile.
_TURN_S = 0.2


class Scanned(Protocol):
    """A row log as it is read: see `RowLog`."""

    @property
    def first(self) -> int:
        """The number of the oldest row there is."""

    @property
    def end(self) -> int:
        """The number that the next row gets."""

    def scan(self, start: int, least_train_step: int | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields rows from `start` on."""


class Page(NamedTuple):
    """Rows in the order in which they are answered. `next`: the number of the row to go on from.

    `is_end`: whether that is the end of the log, and not only of what was searched.
    """

    batches: list[pa.RecordBatch]
    next: int
    lost_rows: int
    is_end: bool

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(batch.num_rows for batch in self.batches)


def read_page(log: Scanned, query: Query, start: int) -> Page:
    """Reads the rows that follow `start`; those that were removed count as lost."""
    first = log.first
    lost, start = max(0, first - start), max(first, start)
    page = (_Episodes if query.complete_episodes else _Plain)(log, query, start, first).read()
    return page._replace(lost_rows=page.lost_rows + lost)


def encode(page: Page, cursor: str, *, as_msgpack: bool) -> bytes:
    """Returns the answer with the rows of a page."""
    columns = {}
    if page.batches:
        table = pa.Table.from_batches(page.batches)
        shown = [column for column in columns_in(table.schema) if column not in OF_EPISODE]
        columns = values_of(shown, table)
    answer = {"cursor": cursor, "rows": page.rows, "lost_rows": page.lost_rows, "columns": columns}
    return (MSGPACK if as_msgpack else JSON).encode(answer)


class _Reading:
    """What both ways to read have in common. `oldest`: the number of the oldest row."""

    def __init__(self, log: Scanned, query: Query, start: int, oldest: int) -> None:
        self._log = log
        self._query = query
        self._start = self._next = start
        self._oldest = oldest
        self._lost = 0
        self._bytes_factor = 1 if query.as_msgpack else _TEXT_FACTOR
        self._until = time.perf_counter() + _TURN_S

    def _batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields rows behind the start until the turn is over; at their end `_next` is behind the last one."""
        end = self._log.end
        is_all = self._query.least_train_step is None
        for number, batch in self._log.scan(self._start, self._query.least_train_step):
            if is_all:
                self._lost += max(0, number - self._next)  # removed meanwhile, or not readable
            skipped = max(0, self._start - number)
            yield number + skipped, batch.slice(skipped)
            self._next = number + batch.num_rows
            if time.perf_counter() > self._until:
                return
        self._next = max(self._next, end)

    def _row_bytes(self, batch: pa.RecordBatch) -> float:
        """Returns the size of a row of a batch, as it counts for an answer."""
        size: float = self._bytes_factor * batch.nbytes / max(1, batch.num_rows)
        return max(1.0, size)

    def _page(self, batches: list[pa.RecordBatch]) -> Page:
        return Page(batches, self._next, self._lost, self._next >= self._log.end)


class _Plain(_Reading):
    """Row by row."""

    def read(self) -> Page:
        least, room, size = self._query.least_train_step, self._query.max_rows, 0
        found: list[pa.RecordBatch] = []
        for number, batch in self._batches():
            if found and not batch.schema.equals(found[0].schema):
                self._next = number
                break
            kept = np.arange(batch.num_rows)
            if least is not None:
                kept = np.flatnonzero(_column(batch, "train_step") >= least)
            fitting = min(room, max(not found, int((_MOST_BYTES - size) / self._row_bytes(batch))))
            if len(kept):
                taken = kept[:fitting]
                is_all = len(taken) == batch.num_rows
                found.append(batch if is_all else batch.take(pa.array(taken)))
                room, size = room - len(taken), size + int(len(taken) * self._row_bytes(batch))
                if len(taken) < len(kept) or not room:
                    self._next = number + int(kept[len(taken)] if len(taken) < len(kept) else kept[-1] + 1)
                    break
        return self._page([batch for batch in found if batch.num_rows])


class _Episode(NamedTuple):
    """One that has ended: the numbers of its first row and of its last, and how many it has."""

    first: int
    last: int
    rows: int


class _Episodes(_Reading):
    """Whole episodes, in the order in which they end."""

    def read(self) -> Page:
        wanted = self._ended()
        return self._page(self._gathered(wanted) if wanted else [])

    def _ended(self) -> list[_Episode]:
        """Returns as many as one answer may have, and leaves `_next` behind the end of the last one."""
        found: list[_Episode] = []
        rows, size = 0, 0.0
        for number, batch in self._batches():
            for episode in self._ends_in(number, batch):
                its_size = episode.rows * self._row_bytes(batch)
                if episode.first < self._oldest or its_size > _MOST_EPISODE_BYTES:
                    self._lost += episode.rows
                    continue
                rows, size = rows + episode.rows, size + its_size
                if found and (rows > self._query.max_rows or size > _MOST_BYTES):
                    self._next = found[-1].last + 1
                    return found
                found.append(episode)
        return found

    def _ends_in(self, number: int, batch: pa.RecordBatch) -> Iterator[_Episode]:
        firsts, steps = _column(batch, EPISODE), _column(batch, EPISODE_STEP)
        is_end = (_column(batch, "next_step_type") == LAST) & (firsts != NO_EPISODE)
        if self._query.least_train_step is not None:
            is_end &= _column(batch, "train_step") >= self._query.least_train_step
        for index in np.flatnonzero(is_end).tolist():
            yield _Episode(int(firsts[index]), number + index, int(steps[index]) + 1)

    def _gathered(self, wanted: list[_Episode]) -> list[pa.RecordBatch]:
        order = {episode.first: place for place, episode in enumerate(wanted)}
        firsts = np.array(sorted(order))
        pieces: list[pa.RecordBatch] = []
        for number, batch in self._log.scan(int(firsts[0])):
            if number > wanted[-1].last:
                break
            mine = np.flatnonzero(np.isin(_column(batch, EPISODE), firsts))
            if len(mine) and (not pieces or batch.schema.equals(pieces[0].schema)):
                pieces.append(batch.take(pa.array(mine)))
        if not pieces:
            self._lost += sum(episode.rows for episode in wanted)
            return []
        table = pa.Table.from_batches(pieces)
        places = np.array([order[first] for first in table.column(EPISODE).to_numpy().tolist()])
        whole = self._whole(wanted, places, table.column("train_step").to_numpy())
        chosen = np.argsort(places, kind="stable")
        chosen = chosen[whole[places[chosen]]]
        batches: list[pa.RecordBatch] = table.take(pa.array(chosen)).combine_chunks().to_batches()
        return batches

    def _whole(self, wanted: list[_Episode], places: Array, train_steps: Array) -> Array:
        """Returns which episodes are wanted still: none of their rows was removed meanwhile, or is too old."""
        expected = np.array([episode.rows for episode in wanted])
        is_whole = np.bincount(places, minlength=len(wanted)) == expected
        self._lost += int(expected[~is_whole].sum())
        if self._query.least_train_step is not None:
            too_old = np.bincount(places[train_steps < self._query.least_train_step], minlength=len(wanted))
            is_whole &= too_old == 0
        return np.asarray(is_whole)


def _column(batch: pa.RecordBatch, name: str) -> Array:
    return np.asarray(batch.column(name).to_numpy())
