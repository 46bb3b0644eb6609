"""The answer that a record keeps, for those who ask again for what was answered already."""

from __future__ import annotations

from app.errors import SessionConflict, UnknownSession
from app.sessions.fields import StepRequest
from app.sessions.reading import is_id
from app.sessions.record import Answer, Record
from app.sessions.store import Key
from app.wire.codecs import Codec, reader_of


def known(record: Record | None, key: Key) -> Record:
    """Returns the record; raises UnknownSession where there is none."""
    if record is None:
        named = repr(key.id) if is_id(key.id) else "of this id"
        raise UnknownSession(
            f"policy {key.policy} has no session {named}: it has ended, was idle for too long, or could not be read"
        )
    return record


def again(record: Record, writes: Codec) -> Answer:
    """Returns the answer to a request to start that is sent once more; raises SessionConflict after the first step."""
    if record.step == 0:
        return in_form_of(writes, record.answer)
    raise SessionConflict(f"this run has started the session already, and its last step is {record.step}", record.step)


def winner(now: Record | None, key: Key, before: Record, request: StepRequest) -> Answer:
    """Returns the answer of the record that is there instead of what should have followed `before`.

    Raises:
      SessionConflict: it is not that of the same step, asked for twice.
    """
    now = known(now, key)
    if now.run.incarnation == before.run.incarnation and request.step is not None and now.step == request.step:
        return now.answer
    raise SessionConflict(f"another request has moved the session meanwhile; its last step is {now.step}", now.step)


def in_form_of(codec: Codec, answer: Answer) -> Answer:
    """Returns the answer in the form that a request asks for; as a rule it has that already."""
    if answer.media_type == codec.media_type:
        return answer
    try:
        return Answer(codec.media_type, codec.encode(reader_of(answer.media_type).decode(answer.body)))
    except Exception as error:  # of a store that somebody else has written to
        raise UnknownSession(f"the last answer that is kept of the session cannot be read: {error}") from error
