"""The steps of recorded sessions → a worker's journals. Whatever goes wrong costs experience, and never an answer."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from app.batching.cork import Cork
from app.batching.rule import Job, Result
from app.experience.event import MODES, STEP, Names, as_copy, read_head
from app.experience.journal import FOLDER, JournalFull, JournalLimits, JournalWriter
from app.experience.layout import Layout, packed
from app.experience.share import is_in_share
from app.inputs.options import Options
from app.logs import about
from app.metric_table import LOST_STEPS
from app.metrics import Metrics
from app.settings import Settings
from saver.artifact import PolicySpec

log = logging.getLogger("policy_server.experience")

_DISK, _UNREAD, _ERROR = LOST_STEPS
_PLACE = "place"
# A journal is a small part of the limit of all experience, and what nobody reads a larger one.
_LEAST_JOURNAL, _MOST_JOURNAL = 2**16, 4 * 2**20
# What `StepWriter.record` is given.
_Answered: TypeAlias = "tuple[str, Names, int, Options, Job, Result]"


class Kept(Protocol):
    """The last step of a session as it is kept elsewhere: its event, and the place that it was written to."""

    @property
    def event(self) -> bytes:
        """See `StepWriter.event`."""

    @property
    def step(self) -> int:
        """Its number."""

    @property
    def version(self) -> str:
        """The version that answered it."""

    @property
    def place(self) -> str:
        """See `StepWriter.place`."""


class StepWriter:
    """Writes the steps of the recorded sessions of one policy. `folder`: the policy's.

    Only the event loop's thread writes; `event` may be called by others too. `cork`: what holds answers back.
    """

    def __init__(
        self, policy: str, spec: PolicySpec, folder: Path, limits: JournalLimits, share: float, cork: Cork
    ) -> None:
        self._cork = cork
        self._answered: list[_Answered] = []
        self._policy = policy
        self._layout = Layout(spec)
        self._folder = folder / FOLDER
        self._journal = JournalWriter(self._folder, self._layout.digest, limits)
        self._share = share
        self._failed = ""
        self._erred = False
        self._place = ""
        self._steps = 0
        self._lost: Counter[str] = Counter()

    @property
    def place(self) -> str:
        """Says for all workers and servers with this folder that it is the same one; "" where it cannot be used."""
        if not self._place:
            try:
                self._place = _place_of(self._folder)
            except OSError as error:
                self._note(_DISK, error)
        return self._place

    def is_recorded(self, session: str, asked: bool | None) -> bool:
        """Returns whether a session is to be recorded. `asked`: what its first request says."""
        return is_in_share(self._policy, session, self._share) if asked is None else asked

    def event(self, step: int, options: Options, job: Job, result: Result) -> bytes:
        """Returns the record of an answered step: see `Layout.event`; b"" where there can be none."""
        try:
            return self._layout.event(step, options, job, result)
        except Exception as error:
            self._err(error)
            return b""

    def record(self, session: str, names: Names, step: int, options: Options, job: Job, result: Result) -> None:
        """Writes an answered step before its answer leaves by the cork: with those of its batch, which costs half."""
        if self._answered or self._cork.before_sending(self._record_all):
            self._answered.append((session, names, step, options, job, result))
        else:
            self.record_now(session, names, step, options, job, result)

    def _record_all(self) -> None:
        all_answered, self._answered = self._answered, []
        self._record(all_answered)

    def record_now(self, session: str, names: Names, step: int, options: Options, job: Job, result: Result) -> None:
        """Does what `event` and `write` do one after the other, with few calls where all is known."""
        self._record([(session, names, step, options, job, result)])

    def _record(self, all_answered: Sequence[_Answered]) -> None:
        """Writes steps: in one piece where all is known, which saves a third of the time."""
        records: list[bytes] = []
        size = 0
        for answered in all_answered:
            record = self._packed(answered, size)
            if record is None:
                self._put(records)
                records, size = [], 0
                session, names, step, options, job, result = answered
                self.write(self.event(step, options, job, result), session, names, result.version)
            else:
                records.append(record)
                size += len(record)
        self._put(records)

    def _packed(self, answered: _Answered, before: int) -> bytes | None:
        """Returns a step's record where names are known and there is room behind so many bytes; b"" after an error."""
        session, names, step, options, job, result = answered
        journal, plan = self._journal, self._layout.plans.get((job.function, result.digest, job.rows))
        known, version = journal.sessions.get(names.incarnation), journal.versions.get(result.version)
        if (
            plan is None
            or known is None
            or version is None
            or known[1] != session
            or journal.at + before + plan.length > journal.size
            or not plan.is_exact
            or self._failed
        ):
            return None
        try:
            return packed(plan, (step, known[0], version), options, job, result)
        except Exception as error:
            self._err(error)
            return b""

    def _put(self, records: Sequence[bytes]) -> None:
        self._steps += len(records)
        whole = b"".join(records)
        if not whole:
            return
        try:
            self._journal.put(whole)
        except Exception as error:
            self._err(error, len(records))

    def write(self, event: bytes, session: str, names: Names, version: str) -> None:
        """Writes a step of a session. `version`: the one that answered it."""
        self._steps += 1
        if event:
            self._write(event, session, names, version)

    def write_again(self, kept: Kept, session: str, names: Names) -> None:
        """Writes the last step once more, the answer of which is sent again: it may have been lost."""
        if kept.event and kept.place == self.place and self._belongs(kept):
            self._write(kept.event, session, names, kept.version)

    def write_before(self, kept: Kept, session: str, names: Names) -> None:
        """Writes the last step, if another machine has written it: the next one is written here."""
        if kept.event and kept.place != self.place and self._belongs(kept):
            self._write(as_copy(kept.event), session, names, kept.version)

    def take_counts(self) -> tuple[int, Counter[str]]:
        """Returns how many steps were to be written since the last call, and how many were lost, by reason."""
        steps, lost = self._steps, self._lost
        self._steps, self._lost = 0, Counter()
        return steps, lost

    def close(self) -> None:
        """Ends the journal."""
        self._journal.close()

    def _write(self, event: bytes, session: str, names: Names, version: str) -> None:
        try:
            self._journal.write(event, session, names, version)
        except Exception as error:
            self._lose(
                _UNREAD if isinstance(error, JournalFull) else _DISK if isinstance(error, OSError) else _ERROR, error
            )
        else:
            if self._failed:
                self._failed = ""
                log.warning("%s: steps are recorded again", self._policy, extra=about(self._policy))

    def _err(self, error: Exception, steps: int = 1) -> None:
        """Notes a bug of ours, or an engine's, by which steps are lost: others may have none."""
        self._lost[_ERROR] += steps
        if not self._erred:
            self._erred = True
            said = "%s: a step is not recorded: %r; answers go on"
            log.error(said, self._policy, error, exc_info=error, extra=about(self._policy))

    def _lose(self, reason: str, error: Exception) -> None:
        self._lost[reason] += 1
        self._note(reason, error)

    def _note(self, reason: str, error: Exception) -> None:
        if self._failed == reason:
            return
        self._failed = reason
        said = error if reason != _ERROR else repr(error)
        log.error("%s: steps are not recorded: %s; answers go on", self._policy, said, extra=about(self._policy))

    def _belongs(self, kept: Kept) -> bool:
        """Returns whether what was kept elsewhere is that step, and of this layout."""
        try:
            head = read_head(kept.event)
        except ValueError:
            return False
        known = (head.kind, head.step, head.flags) == (STEP, kept.step, 0)
        return known and head.mode < len(MODES) and self._layout.fits(head.rows, kept.event)


class StepWriters:
    """Those of a worker's policies; none where nothing is recorded."""

    def __init__(self, settings: Settings, metrics: Metrics, cork: Cork) -> None:
        self._cork = cork
        self._folder = Path(settings.experience_dir).expanduser().absolute() if settings.experience_dir else None
        self._share = settings.experience_share
        size = min(max(settings.experience_bytes_limit // 256, _LEAST_JOURNAL), _MOST_JOURNAL)
        self._limits = JournalLimits(size, max(settings.experience_bytes_limit // 32, 4 * size))
        self._writers: dict[str, StepWriter] = {}
        self._metrics = metrics
        metrics.measure_with(self._measure)

    def of(self, policy: str, spec: PolicySpec) -> StepWriter | None:
        """Returns the one of a policy; None where it has no sessions, or nothing is recorded."""
        if self._folder is None or not spec.takes_time_step or not isinstance(spec.inputs, dict):
            return None
        if policy not in self._writers:
            self._writers[policy] = StepWriter(
                policy, spec, self._folder / policy, self._limits, self._share, self._cork
            )
        return self._writers[policy]

    def _measure(self) -> None:
        for policy, writer in self._writers.items():
            self._metrics.policy(policy).recorded_steps(*writer.take_counts())

    def close(self) -> None:
        """Ends all journals."""
        for writer in self._writers.values():
            writer.close()


def _place_of(folder: Path) -> str:
    """Returns what a folder is known by; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder / _PLACE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        found = os.pread(number, 64, 0).decode("ascii", "replace")
        if not found:
            found = secrets.token_hex(8)
            os.pwrite(number, found.encode(), 0)
        return found
    finally:
        os.close(number)
