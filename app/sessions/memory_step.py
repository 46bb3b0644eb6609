"""A step of a session in memory, which the fast path answers without a task: the record is stored with the answer."""

from __future__ import annotations

from app.batching.rule import Job, Result
from app.inference.policy import Policy
from app.sessions.episode import SessionStep
from app.sessions.fields import StepRequest
from app.sessions.kept_answer import in_form_of, winner
from app.sessions.memory import MemoryStore
from app.sessions.record import Record
from app.sessions.store import Key
from app.wire.codecs import Codec


class MemoryStep:
    """A step of a session in memory, as a pending request: see `InferenceRequest`."""

    def __init__(self, store: MemoryStore, key: Key, request: StepRequest, step: SessionStep) -> None:
        self._store = store
        self._key = key
        self._request = request
        self._step = step
        assert step.before is not None
        self._before = step.before
        self.policy: Policy = step.pending.policy
        self.job: Job = step.pending.job
        self.timeout_s = step.pending.timeout_s

    @property
    def numbers(self) -> int:
        """See `InferenceRequest`."""
        return self._step.pending.numbers

    def written(self, result: Result, codec: Codec) -> tuple[Record, Codec, bytes]:
        """Returns the record that follows, with the answer, and what is recorded of the step."""
        return self._step.after(result, codec), codec, self._step.event(result)

    def kept(self, written: tuple[Record, Codec, bytes]) -> bytes:
        """Stores the record, records the step, and returns the body of the answer."""
        after, codec, event = written
        if self._store.put(self._key, self._before, after):
            self._step.record(event, after)
            return after.answer.body
        return self._won(codec)

    def answer(self, result: Result, codec: Codec) -> bytes:
        """Writes, stores and records, and returns the body of the answer, which leaves by the cork."""
        after = self._step.after(result, codec)
        if self._store.put(self._key, self._before, after):
            self._step.record_result(result, after)
            return after.answer.body
        return self._won(codec)

    def _won(self, codec: Codec) -> bytes:
        return in_form_of(codec, winner(self._store.find(self._key), self._key, self._before, self._request)).body


class LargeMemoryStep(MemoryStep):
    """A step whose answer takes long to write."""
