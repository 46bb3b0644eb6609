"""Who asks again for what was answered already gets the answer that is kept, in the form that it asks for."""

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from app.errors import SessionConflict, UnknownSession
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.sessions.fields import StepRequest
from app.sessions.kept_answer import again, in_form_of, known, winner
from app.sessions.record import Answer
from app.sessions.store import Key
from app.wire.codecs import JSON, MSGPACK, Codec
from tests.support.session_records import record

KEY = Key("p", "a")
FIELDS = {"step": 4, "action": [1, 0]}


def asking(step: int | None) -> StepRequest:
    """A request for a step, of which nothing else counts here."""
    return StepRequest(Inputs({"0/observation": np.ones((1, 1), np.float32)}, 1, False, True, 0), Options(), step)


def answer(codec: Codec) -> Answer:
    return Answer(codec.media_type, codec.encode(FIELDS))


def with_answer(given: Answer, **more: Any) -> Any:
    return structs.replace(record(**more), answer=given)


def test_a_session_that_is_there_is_returned_as_it_is() -> None:
    there = record()
    assert known(there, KEY) is there


@pytest.mark.parametrize(
    ("id_", "named"), [("a", "'a'"), ("x" * 128, f"'{'x' * 128}'"), ("x" * 129, "of this id"), ("<a>", "of this id")]
)
def test_a_session_that_is_not_there_is_named_where_it_could_be_one(id_: str, named: str) -> None:
    with pytest.raises(UnknownSession) as refused:
        known(None, Key("p", id_))
    assert str(refused.value) == (
        f"policy p has no session {named}: it has ended, was idle for too long, or could not be read"
    )


def test_a_start_that_is_sent_once_more_gets_the_first_answer_until_the_first_step() -> None:
    first = answer(JSON)
    assert again(with_answer(first, step=0), JSON) is first
    with pytest.raises(SessionConflict, match="has started the session already, and its last step is 3") as refused:
        again(with_answer(first, step=3), JSON)
    assert refused.value.step == 3


def test_of_two_requests_for_the_same_step_both_get_the_answer_of_the_first() -> None:
    now = with_answer(answer(JSON), step=5)
    assert winner(now, KEY, record(step=4), asking(5)) is now.answer


@pytest.mark.parametrize(
    ("incarnation", "now", "asked"),
    [
        ("b", 5, None),  # which may have meant the one after it
        ("b", 6, 5),
        ("b", 5, 6),
        ("c", 5, 5),
    ],
    ids=["without a number", "further already", "not so far", "started anew"],
)
def test_any_other_request_is_a_conflict_that_says_where_the_session_is(
    incarnation: str, now: int, asked: int | None
) -> None:
    there = record(incarnation, step=now)
    with pytest.raises(SessionConflict, match=f"another request has moved .* its last step is {now}$") as refused:
        winner(there, KEY, record("b", step=4), asking(asked))
    assert refused.value.step == now


def test_where_the_session_has_ended_meanwhile_there_is_no_winner() -> None:
    with pytest.raises(UnknownSession, match="policy p has no session 'a'"):
        winner(None, KEY, record(step=4), asking(5))


@pytest.mark.parametrize("kept", [JSON, MSGPACK])
@pytest.mark.parametrize("asked", [JSON, MSGPACK])
def test_an_answer_comes_in_the_form_that_is_asked_for(kept: Codec, asked: Codec) -> None:
    before = answer(kept)
    found = in_form_of(asked, before)
    assert found.media_type == asked.media_type
    assert asked.decode(found.body) == FIELDS
    assert (found is before) is (kept is asked)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (Answer("application/json", b"{"), ""),
        (Answer("application/json", b"\xff"), ""),
        (Answer("text/plain", b"{}"), "content type 'text/plain'"),
        (Answer("", b"[1]"), ""),
    ],
    ids=["cut off", "no text", "another form", "no object"],
)
def test_what_somebody_else_has_written_into_the_store_is_no_session(kept: Answer, says: str) -> None:
    with pytest.raises(UnknownSession, match=f"the last answer that is kept of the session cannot be read: .*{says}"):
        in_form_of(MSGPACK, kept)
