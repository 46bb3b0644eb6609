"""The rows of one policy on disk: appended to an open segment, closed as Parquet, removed at a limit, and read.

    DIR/{policy}/0000000000000000.parquet    closed: named for the number of its first row, which never changes
    DIR/{policy}/0000000000004711.arrows     full, until it has become a Parquet file; the last one is open

What `append` was given is on disk when it returns, and survives the end of the process at any moment. With each batch
it notes what of the journals is in it, so that a new process knows exactly where to go on.

One thread appends and another closes; any may read: what they share is the list of segments, behind a lock.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from app.experience import closed_segment, open_segment
from app.experience.arrow import (
    COLUMNS,
    EPISODE,
    EPISODE_STEP,
    OF_EPISODE,
    SPEC,
    Rows,
    batch_of,
    columns_in,
    schema_of,
    values_of,
)
from app.experience.closed_segment import ClosedSegment, GroupCache
from app.experience.episodes import RECOVERED, Episodes
from app.experience.limits import RowLogLimits
from app.experience.open_segment import CREATED, OpenSegment
from app.experience.recovery import newest_metadata, segments_in
from app.experience.returns import Returns
from app.experience.schema import Column

log = logging.getLogger("policy_server.experience")

# The metadata of segments and batches.
_LOG, _CONSUMED, _PAIRING, _EPISODES = (
    b"policy_server.log", b"policy_server.consumed", b"policy_server.pairing", b"policy_server.episodes",
)  # fmt: skip
# What only the next process needs to go on from a segment: megabytes, which a file that is closed would have for ever.
_OF_OPEN = (_PAIRING, _EPISODES)
_CACHE_BYTES = 48 * 2**20
# Two weeks of one a minute: of so few rows, their bytes would not be the bound for years.
_MOST_SEGMENTS = 20_000

Segment = OpenSegment | ClosedSegment


class RowLog:
    """See the module. `id`: 8 bytes that no other log has; `removed_rows`: how many the limit has cost since the start.

    `journal_bytes`: of the journals beside it, which count for the limit too.

    Raises:
      OSError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path, columns: tuple[Column, ...], limits: RowLogLimits, spec: Mapping[str, object] | None = None
    ) -> None:
        self.folder = folder
        self.columns = columns
        self.consumed: dict[str, int] = {}
        self.pairing = b""
        self.id = b""
        self.removed_rows = 0
        self.journal_bytes = 0
        self.returns = Returns()
        self._spec = json.dumps(spec or {}).encode()
        self._limits = limits
        self._episodes = Episodes()
        self._lock = threading.Lock()
        self._cache = GroupCache(_CACHE_BYTES)
        self._segments: list[Segment] = []
        self._closed_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._used = _locked(folder)
        try:
            self._recover()
        except BaseException:
            os.close(self._used)
            raise
        limits.add(self)

    def close(self) -> None:
        """Leaves the folder to others."""
        self._limits.remove(self)
        self._open.close()
        os.close(self._used)

    @property
    def first(self) -> int:
        """The number of the oldest row there is, or of the next one."""
        with self._lock:
            return self._segments[0].first

    @property
    def end(self) -> int:
        """The number that the next row gets."""
        return self._open.end

    @property
    def size(self) -> int:
        """The bytes of all segments, and of the journals."""
        with self._lock:
            return self._closed_bytes + self._segments[-1].size + self.journal_bytes

    @property
    def oldest(self) -> float | None:
        """See `limits.Log`."""
        with self._lock:
            return self._segments[0].created if len(self._segments) > 1 else None

    @property
    def _open(self) -> OpenSegment:
        last = self._segments[-1]
        assert isinstance(last, OpenSegment)
        return last

    def append(self, rows: Rows, consumed: dict[str, int], pairing: bytes | None = None) -> None:
        """Appends rows, and notes with them how much of which journal they were made of.

        Args:
          rows: by column: arrays of shape [rows, …], or lists of strings.
          consumed: bytes by journals' names: all that there are.
          pairing: what the pairing needs to go on from there; None where that is unchanged.

        Raises:
          OSError: they cannot be written; nothing has changed.
        """
        self.close_if_due(time.time())
        opened = self._open
        episodes, steps, changes = self._episodes.assign(rows, opened.end)
        batch = batch_of(opened.schema, (*self.columns, *OF_EPISODE), {**rows, EPISODE: episodes, EPISODE_STEP: steps})
        noted = {_CONSUMED: json.dumps(consumed).encode()}
        if pairing is not None:
            noted[_PAIRING] = pairing
        self._limits.make_room(batch.nbytes)
        opened.append(batch, noted)
        self._episodes.keep(changes)
        self.returns.add(rows, episodes)
        self.consumed = dict(consumed)
        self.pairing = self.pairing if pairing is None else pairing

    def close_if_due(self, now: float) -> None:
        """Begins another segment where the open one is large or old enough; `now`: Unix time.

        Raises:
          OSError: no other one can be begun; the open one stays.
        """
        opened, limits = self._open, self._limits
        full = opened.size >= limits.segment_bytes and len(opened.batches) > 0
        if full or (opened.rows and now - opened.created >= limits.segment_s):
            self._begin(opened.end)
            opened.close()

    def close_next(self) -> bool:
        """Makes a Parquet file of the oldest full segment; returns whether there was one.

        Raises:
          OSError: it cannot be written: it stays as it is.
        """
        with self._lock:
            full = [pair for pair in itertools.pairwise(self._segments) if isinstance(pair[0], OpenSegment)]
        if not full:
            return False
        segment, following = full[0]
        assert isinstance(segment, OpenSegment)
        metadata = {key: value for key, value in segment.schema.metadata.items() if key not in _OF_OPEN}
        if isinstance(following, OpenSegment):
            metadata[_CONSUMED] = following.schema.metadata[_CONSUMED]  # so much was read by its last row
        partial = closed_segment.write_closed(segment, metadata)
        path = segment.path.with_suffix(closed_segment.SUFFIX)
        with self._lock:
            if segment in self._segments:
                partial.rename(path)
                closed = ClosedSegment(path, segment.first, segment.end, segment.created)
                self._keep([closed if each is segment else each for each in self._segments])
            else:  # removed meanwhile
                partial.unlink()
        open_segment.sync_folder(self.folder)
        segment.path.unlink(missing_ok=True)
        return True

    def remove_oldest(self) -> None:
        """See `limits.Log`."""
        with self._lock:
            segment = self._segments[0]
            self._keep(self._segments[1:])
        self.removed_rows += segment.rows
        segment.path.unlink(missing_ok=True)

    def recent_steps(self) -> Iterator[tuple[str, str, int, int]]:
        """Yields session, incarnation, row and step of the last row of every environment that stepped of late."""
        yield from self._episodes.steps()

    def scan(self, start: int, least_train_step: int | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the rows from `start` on, in batches, each with the number of its first row.

        The first batch may begin before `start`. What is removed meanwhile is left out, and so are, where
        `least_train_step` is given, batches without a row of so many steps.
        """
        while (segment := self._holding(start)) is not None:
            try:
                if isinstance(segment, ClosedSegment):
                    found = segment.read(start, self._cache, least_train_step)
                else:
                    found = segment.read(start)
                for number, batch in found:
                    yield number, batch
                    start = number + batch.num_rows
                if isinstance(segment, ClosedSegment):
                    start = max(start, segment.end)
            except (OSError, pa.ArrowException) as error:
                with self._lock:
                    is_there = segment in self._segments
                if is_there:
                    log.error("%s cannot be read, and is left out: %s", segment.path, error)
                    start = segment.end

    def _holding(self, row: int) -> Segment | None:
        """Returns the segment that has this row, or the next one there is."""
        with self._lock:
            at = bisect.bisect_right(self._segments, row, key=lambda segment: segment.end)
            return self._segments[at] if at < len(self._segments) else None

    def _keep(self, segments: list[Segment]) -> None:
        """Takes these segments, the open one last; with the lock."""
        self._segments = segments
        self._closed_bytes = sum(segment.size for segment in segments[:-1])

    def _recover(self) -> None:
        """Reads what is there; nothing that was appended is lost, and nothing is there twice."""
        closed, growing = segments_in(self.folder)
        segments: list[Segment] = [*closed, *(segment for segment, _ in growing)]
        self._keep(sorted(segments, key=lambda segment: segment.first))
        for full, _ in growing[:-1]:
            full.close()
        if growing:
            self._restore(*growing[-1])
        else:  # the open one could not be read, or there is nothing at all
            saved = newest_metadata(closed)
            self.id = saved.get(_LOG, b"")
            self.consumed = json.loads(saved.get(_CONSUMED, b"{}"))
        self._go_on()

    def _restore(self, segment: OpenSegment, noted: dict[bytes, bytes]) -> None:
        saved = segment.schema.metadata
        self.id = saved[_LOG]
        self.consumed = json.loads(noted.get(_CONSUMED, saved[_CONSUMED]))
        # It may be of an earlier export: then its rows have other columns, and so have the steps in `pairing`.
        columns = columns_in(segment.schema)
        if columns == (*self.columns, *OF_EPISODE):
            self.pairing = noted.get(_PAIRING, saved[_PAIRING])
        self._episodes.restore(saved[_EPISODES])
        columns = tuple(column for column in columns if column.name in RECOVERED)
        for _, batch in segment.read(segment.first):
            self._episodes.recover(values_of(columns, pa.Table.from_batches([batch])))

    def _go_on(self) -> None:
        """Has an open segment at the end that rows of these columns can be appended to."""
        last = self._segments[-1] if self._segments else None
        self.id = self.id or os.urandom(8)
        schema = self._schema()
        if isinstance(last, OpenSegment) and all(
            last.schema.metadata.get(key) == schema.metadata[key] for key in (COLUMNS, SPEC)
        ):
            return
        self._begin(last.end if last is not None else 0)
        if isinstance(last, OpenSegment):
            last.close()

    def _begin(self, number: int) -> None:
        # With no row in it, the open one has the same name.
        segment = OpenSegment.create(self.folder, number, self._schema())
        with self._lock:
            self._keep([*(each for each in self._segments if each.first != number), segment])
        while len(self._segments) > _MOST_SEGMENTS:
            self.remove_oldest()

    def _schema(self) -> pa.Schema:
        saved = {
            SPEC: self._spec,
            _LOG: self.id,
            _CONSUMED: json.dumps(self.consumed).encode(),
            _PAIRING: self.pairing,
            _EPISODES: self._episodes.to_json(),
            CREATED: repr(time.time()).encode(),
        }
        return schema_of((*self.columns, *OF_EPISODE), saved)


def _locked(folder: Path) -> int:
    """Returns a descriptor by which this process alone uses the folder, until it is closed."""
    used = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(used)
        raise OSError(errno.EBUSY, f"{folder} is used by another server") from None
    return used
