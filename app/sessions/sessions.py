"""Sessions: a request and the record before it → the answer, and the record that is stored."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from app.batching.rule import Result
from app.errors import DeadlinePassed, SessionConflict, Unsupported
from app.experience.writing import StepWriters
from app.inference.policy import Policy
from app.inference.request_parser import LargeRequest
from app.inference.service import Service
from app.inputs.options import Options
from app.logs import about
from app.rpc.messages import Spread
from app.sessions.elsewhere import VersionsElsewhere
from app.sessions.episode import Episodes, SessionStep
from app.sessions.fields import StepRequest
from app.sessions.kept_answer import in_form_of, known, winner
from app.sessions.memory import MemoryStore
from app.sessions.memory_step import LargeMemoryStep, MemoryStep
from app.sessions.record import Answer, Record, described
from app.sessions.store import Key, SessionStore
from app.sessions.tidying import call_now_and_then
from app.settings import variable
from app.wire.codecs import Codec

log = logging.getLogger("policy_server.sessions")
# So long may a store take beside the policy, all accesses of one request together.
_STORE_S = 1.0
# To start in the place of a session that its old run still steps.
_MOST_TRIES = 100


class Sessions:
    """The sessions of every policy. `store`: None where there is nothing that all workers share.

    `writers`: write the steps of those that are recorded.
    """

    def __init__(
        self, service: Service, store: SessionStore | None, *, rows_limit: int, writers: StepWriters | None = None
    ) -> None:
        self._service = service
        self._store = store
        self._rows_limit = rows_limit
        self._writers = writers
        self._episodes: dict[str, Episodes] = {}
        for policy in service.policies:
            self.add(policy)
        if store is not None:
            store.check_by(self._unusable)
        self._starting: Counter[str] = Counter()
        self._elsewhere = VersionsElsewhere(service)
        self._unneeded: dict[str, set[str]] = {}
        # Whether episodes that are no sessions keep a version of a policy: its name and digest.
        self.also_kept: Callable[[str, str], bool] = lambda _, __: False

    def add(self, policy: Policy) -> None:
        """Opens the sessions of a policy."""
        self._episodes[policy.name] = Episodes(
            policy,
            self._service.parser,
            rows_limit=self._rows_limit,
            writer=None if self._writers is None else self._writers.of(policy.name, policy.spec),
            keeps_events=not isinstance(self._store, MemoryStore),
        )

    async def begin(
        self, policy: Policy, reads: Codec, writes: Codec, body: bytes, client: str = ""
    ) -> tuple[str, Answer]:
        """Starts a session; returns its id, and its first answer. `client`: see `SessionStore.begin`.

        Raises:
          NotJson, DoesNotFit: see `SessionReader`.
          SessionConflict: the run's session is further already, or another one has started meanwhile.
          Overloaded: as many sessions as may be.
          Unsupported: the policy has no sessions, or not by these options.
          NotReady: the store cannot be reached.
        """
        store, episodes = self._open(policy)
        request = await self._service.read_body(body, partial(episodes.reader.read_begin, reads))
        key = Key(policy.name, request.id or secrets.token_hex(16))
        async with self._in_time(request.options):
            before = await store.get(key) if request.id else None
            if before is not None and episodes.is_of(before, request.run_id):
                return key.id, episodes.begin_again(before, key.id, writes)
            keeps = request.weights == "episode"
            answers = policy.arms.for_new(key.id) or policy.versions.active
            await store.check_room(key, answers.version.digest if keeps else None, client)
            step = episodes.begin(request, key.id, request.run_id or secrets.token_hex(16))
            with self._one_starts(policy.name, keeps):
                result = await self._service.answered(step.pending)
                record = await self._after(step, result, writes)
                newest = await _stored_first(store, key, before, record, client)
        if newest is record:
            step.record(record.event or step.event(result), record)
            return key.id, record.answer
        if not episodes.is_of(newest, request.run_id):
            raise SessionConflict("another run has started it at the same time", newest.step)
        return key.id, episodes.begin_again(newest, key.id, writes)

    async def step(self, policy: Policy, id_: str, reads: Codec, writes: Codec, body: bytes) -> Answer:
        """Answers the next observation of a session.

        Raises:
          UnknownSession: there is no such session.
          SessionConflict, DoesNotFit, WeightsGone, Unsupported: see `Episodes.step`.
          NotReady: the store cannot be reached.
        """
        store, episodes = self._open(policy)
        reader = episodes.reader
        request = await self._service.read_body(
            body, partial(reader.read_step, reads), partial(reader.read_step_at_once, reads)
        )
        if isinstance(store, MemoryStore):
            return await self._in_memory(self.step_of(policy, id_, writes, request), writes)
        key = Key(policy.name, id_)
        async with self._in_time(request.options):
            before = known(await store.get(key), key)
            await self._elsewhere.load_retained(policy, before)
            step = episodes.step(before, request, id_)
            if isinstance(step, Answer):
                episodes.record_again(before, id_)
                return in_form_of(writes, step)
            after = await self._after(step, await self._service.answered(step.pending), writes)
            if await store.follow(key, before, after):
                step.record(after.event, after)
                return after.answer
            now = await store.get(key)
            answer = winner(now, key, before, request)
            episodes.record_again(known(now, key), id_)
            return in_form_of(writes, answer)

    async def _in_memory(self, step: MemoryStep | Answer, writes: Codec) -> Answer:
        """Does with a step what the fast path does, where the caller can wait."""
        if isinstance(step, Answer):
            return step
        result = await self._service.answered(step)
        if isinstance(step, LargeMemoryStep):
            written = await self._service.write_elsewhere(step, result, writes)
        else:
            written = step.written(result, writes)
        return Answer(writes.media_type, step.kept(written))

    def step_at_once(self, policy: Policy, id_: str, reads: Codec, writes: Codec, body: bytes) -> MemoryStep | Answer:
        """Returns the pending request of a step where sessions are in memory; it stores the record when answered."""
        _, episodes = self._open(policy)
        return self.step_of(policy, id_, writes, episodes.reader.read_step(reads, body))

    def stepping_at_once(self, policy: Policy, reads: Codec, body: bytes) -> StepRequest | None:
        """Reads a large body where that takes a few milliseconds; returns None where it may take longer."""
        return self._open(policy)[1].reader.read_step_at_once(reads, body)

    def stepping(self, policy: Policy, reads: Codec, body: bytes) -> StepRequest:
        """Reads the body of a step; in a thread of its own where it is large."""
        return self._open(policy)[1].reader.read_step(reads, body)

    def step_of(self, policy: Policy, id_: str, writes: Codec, request: StepRequest) -> MemoryStep | Answer:
        """Returns the request to the policy, of a step whose body was read."""
        store, episodes = self._open(policy)
        assert isinstance(store, MemoryStore)
        key = Key(policy.name, id_)
        step = episodes.step(known(store.find(key), key), request, id_)
        if isinstance(step, Answer):
            return in_form_of(writes, step)
        kind = LargeMemoryStep if isinstance(step.pending, LargeRequest) else MemoryStep
        return kind(store, key, request, step)

    def spread(self) -> Spread | None:
        """Returns how sessions are spread, where that costs little: in memory."""
        return self._store.spread() if isinstance(self._store, MemoryStore) else None

    @property
    def can_step_at_once(self) -> bool:
        """True where sessions are in memory, so that `step_at_once` may be called."""
        return isinstance(self._store, MemoryStore)

    async def describe(self, policy: Policy, id_: str) -> dict[str, Any]:
        """Returns what is stored of a session, for a person; raises UnknownSession."""
        store, _ = self._open(policy)
        key = Key(policy.name, id_)
        record = known(await store.get(key), key)
        return described(id_, record)

    async def end(self, policy: Policy, id_: str, run_id: str | None) -> None:
        """Ends a session, or only that run of it.

        Raises:
          UnknownSession: there is no such session.
          SessionConflict: the session is another run's.
        """
        store, _ = self._open(policy)
        key = Key(policy.name, id_)
        record = known(await store.end(key, run_id), key)
        if run_id is not None and record.run.run_id != run_id:
            raise SessionConflict(f"another run has taken the session over: {record.run.run_id!r}", record.step)

    def _unusable(self, key: Key, record: Record | None, reason: str) -> str:
        """A record of another shape is that session's trouble only: never may it come into a batch with others."""
        if record is not None:
            reason = self._episodes[key.policy].fitting.misfit(record)
        if reason:
            self._service.policy(key.policy).metrics.unusable_record()
            shown = repr(reason)[1:-1]
            log.warning(
                "%s: the record of session %r cannot be used and is dropped: %s",
                key.policy,
                key.id,
                shown,
                extra=about(key.policy),
            )
        return reason

    def retains(self, policy: str, digest: str) -> bool:
        """Returns whether a session may keep this version: with a store that others share, any."""
        if self.also_kept(policy, digest):
            return True
        if self._store is None:
            return False
        if not isinstance(self._store, MemoryStore) or self._starting[policy]:
            return True
        return self._store.retains(policy, digest)

    async def tidy(self) -> int:
        """Forgets what is idle, and the versions that no session keeps: those of which that was so the last time, too.

        Returns how many sessions are open.
        """
        for policy in self._service.policies:
            retained = policy.versions.retained
            needed = {digest for digest in retained if self.also_kept(policy.name, digest)}
            if retained and self._store is not None:
                needed |= await self._store.retained(policy.name)
            for digest in needed:
                policy.versions.find(digest)
            unneeded = retained - needed
            if self._starting[policy.name]:  # one of them may be what this session will retain
                unneeded = set()
            for digest in unneeded & self._unneeded.get(policy.name, set()):
                policy.versions.forget(digest)
            self._unneeded[policy.name] = unneeded
        return await self._store.count() if self._store is not None else 0

    async def tidy_now_and_then(self, record: Callable[[int], None]) -> None:
        """Calls `tidy` every half second, and `record` with what it returns."""
        await call_now_and_then(self.tidy, record)

    async def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            await self._store.close()

    async def _after(self, step: SessionStep, result: Result, writes: Codec) -> Record:
        if not isinstance(step.pending, LargeRequest):
            return step.after(result, writes)
        return await self._service.offload.run(8 * step.pending.numbers, step.after, result, writes)

    def _open(self, policy: Policy) -> tuple[SessionStore, Episodes]:
        if self._store is None:
            raise Unsupported(
                f"sessions need one worker, or a store that all workers share: set {variable('session_url')}"
            )
        episodes = self._episodes[policy.name]
        episodes.check()
        return self._store, episodes

    @asynccontextmanager
    async def _in_time(self, options: Options) -> AsyncIterator[None]:
        """Within, the store takes no longer than it may, beside the deadline that the request to the policy has."""
        try:
            async with asyncio.timeout(self._service.timeout_s(options.timeout_ms) + _STORE_S):
                yield
        except TimeoutError:
            raise DeadlinePassed("no answer before the deadline; the step may have been done all the same") from None

    @contextmanager
    def _one_starts(self, policy: str, keeps: bool) -> Iterator[None]:
        """Within, no version of the policy is given up: the session may keep the one that answers it."""
        self._starting[policy] += keeps
        try:
            yield
        finally:
            self._starting[policy] -= keeps


async def _stored_first(store: SessionStore, key: Key, before: Record | None, record: Record, client: str) -> Record:
    """Puts the first record of a session in the place of `before`, or of what that has become; returns the newest."""
    for _ in range(_MOST_TRIES):
        if await store.begin(key, before, record, client):
            return record
        newest = await store.get(key)
        if newest is not None and (before is None or newest.run.incarnation != before.run.incarnation):
            return newest
        before = newest  # the run that is to be fenced has stepped, or ended
    raise SessionConflict("another run steps it all the time", -1 if before is None else before.step)
