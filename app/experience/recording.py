"""The rows of one policy as the recorder keeps them: the follower of its journals, its row log, and its readers.

A folder that cannot be used, or a disk that is full, costs rows and nothing else: it is tried again, and logged once.
So is what nobody expects, a bug of ours or a file that is not as we wrote it: other policies are recorded meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from app.errors import NotReady
from app.experience.cursor import END, Cursor, new_reader, read_cursor, unfit
from app.experience.limits import RowLogLimits
from app.experience.pages import Page, encode, read_page
from app.experience.query import Query
from app.experience.readers import Readers
from app.experience.row_log import RowLog
from app.experience.schema import columns_of
from app.logs import about
from app.rpc.messages import ExperienceFigures
from saver.artifact import PolicySpec

log = logging.getLogger("policy_server.experience")

# After an error, until it is tried again; after one that nobody expects all is read anew, which takes its time.
_AGAIN_S, _ANEW_S, _RETRY_S = 1.0, 30.0, 1
# What may fail, as the log says it.
_RECORDED, _CLOSED = "recorded", "closed"


class Follower(Protocol):
    """Follows the journals of a policy."""

    @property
    def lost_events(self) -> int:
        """How many steps were dropped because they could not be kept until they were rows."""

    @property
    def journal_bytes(self) -> int:
        """The bytes that the journals take on the disk."""

    def advance(self) -> int:
        """Appends to the row log what is new, and returns how many rows that were; raises OSError."""


# The last: how many bytes of journals may stay though they are read.
MakeFollower = Callable[[Path, PolicySpec, RowLog, int], Follower]
# This share of all bytes of experience: half of what a worker lets wait to be read (app/experience/writing.py).
_KEPT_JOURNALS = 1 / 64


class Recording:
    """One policy's. `advance` and `close_next` belong to a thread each, and so do `read` and `encode`.

    `was_tried`: whether its row log is open by now, or cannot be opened.
    """

    def __init__(
        self, policy: str, folder: Path, spec: PolicySpec, limits: RowLogLimits, make_follower: MakeFollower
    ) -> None:
        self.policy = policy
        self.was_tried = False
        self._folder = folder
        self._spec = spec
        self._limits = limits
        self._make_follower = make_follower
        self._log: RowLog | None = None
        self._follower: Follower | None = None
        self._is_doubtful = False
        self._closing = threading.Lock()
        self._readers = Readers()
        self._failed: dict[str, str] = {}
        self._begun_at = 0
        self._again_at: dict[str, float] = {}

    def advance(self) -> int:
        """Takes what is new into the row log; returns how many rows that were."""
        count = 0

        def take() -> None:
            nonlocal count
            rows, follower = self._opened()
            count = follower.advance()
            rows.journal_bytes = follower.journal_bytes
            rows.close_if_due(time.time())

        self._is_doubtful |= not self._tried(_RECORDED, take)
        self.was_tried = True
        return count

    def close_next(self) -> bool:
        """See `RowLog.close_next`."""
        found = False

        def close() -> None:
            nonlocal found
            with self._closing:
                found = self._log is not None and self._log.close_next()

        self._tried(_CLOSED, close)
        return found

    def read(self, query: Query, place: Cursor | None) -> tuple[Page, Cursor]:
        """Returns rows behind a place, and the place to go on from. `place`: None for the one that the query names.

        Raises:
          DoesNotFit: the cursor is another log's.
          NotReady: there is no log, because its folder cannot be used.
        """
        rows = self._log
        if rows is None:
            failed = self._failed.get(_RECORDED)
            raise NotReady(f"the experience of policy {self.policy} cannot be kept now: {failed}", _RETRY_S)
        place = place or self._place(query.cursor, rows)
        page = read_page(rows, query, place.row)
        place = place._replace(row=page.next)
        self._readers.saw(place.reader, place.row, time.monotonic())
        return page, place

    def encode(self, query: Query, page: Page, place: Cursor) -> bytes:
        """Returns the bytes of the answer."""
        return encode(page, place.text(), as_msgpack=query.as_msgpack)

    def close(self) -> None:
        """Leaves the row log to others."""
        if self._log is not None:
            self._log.close()

    def figures(self) -> ExperienceFigures:
        """Returns what it has come to."""
        rows, follower = self._log, self._follower
        if rows is None:
            return ExperienceFigures()
        lost = follower.lost_events if follower is not None else 0
        behind = self._readers.behind(rows.end, time.monotonic())
        return ExperienceFigures(
            rows.end - self._begun_at, rows.size, rows.removed_rows, lost, behind, rows.returns.newest()
        )

    def _opened(self) -> tuple[RowLog, Follower]:
        if self._is_doubtful:
            with self._closing:  # or what is being closed would be there twice
                self.close()
                self._log = self._follower = None
            self._is_doubtful = False
        if self._log is None:
            self._log = RowLog(self._folder, columns_of(self._spec), self._limits, self._spec.to_json())
            self._begun_at = self._log.end
        if self._follower is None:
            kept_bytes = int(_KEPT_JOURNALS * self._limits.bytes_limit)
            self._follower = self._make_follower(self._folder, self._spec, self._log, kept_bytes)
        return self._log, self._follower

    def _place(self, text: str, rows: RowLog) -> Cursor:
        if text in ("", END):
            return Cursor(rows.id, rows.end if text else rows.first, new_reader())
        place = read_cursor(text)
        if place.log != rows.id:
            raise unfit(text, " is of another policy, or of experience that is gone")
        if place.row > rows.end:
            raise unfit(text, " is behind the end of what there is")
        return place

    def _tried(self, what: str, call: Callable[[], Any]) -> bool:
        """Calls, but not soon after it has failed; the same failure again is not logged.

        Returns False where it failed as nobody expects: what is in memory may be wrong, and only the disk is right.
        """
        if time.monotonic() < self._again_at.get(what, 0.0):
            return True
        try:
            call()
        except OSError as error:
            self._again_at[what] = time.monotonic() + _AGAIN_S
            self._report(what, str(error))
        except Exception as error:
            self._again_at[what] = time.monotonic() + _ANEW_S
            self._report(what, f"{type(error).__name__}: {error}", error)
            return False
        else:
            if self._failed.pop(what, ""):
                log.warning("%s: experience is %s again", self.policy, what, extra=about(self.policy))
        return True

    def _report(self, what: str, reason: str, unexpected: Exception | None = None) -> None:
        if self._failed.get(what) == reason:
            return
        self._failed[what] = reason
        log.error(
            "%s: experience is not %s: %s; answers go on",
            self.policy,
            what,
            reason,
            exc_info=unexpected,
            extra=about(self.policy),
        )
