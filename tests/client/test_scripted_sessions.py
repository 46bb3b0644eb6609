"""What sessions send, and what they do when an answer is lost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policy_client import Conflict, NotFound, Unavailable
from tests.support.scripted_server import Answer, Drop, Late, Scripted, problem, said, scripted

Connect = Callable[..., Any]
ROWS = np.zeros((3, 4), np.float32)
ENDED = Answer(204)
GONE = problem(404, "Unknown session", "policy cartpole has no session 'env-7'")


def begun(step: int = 0) -> Answer:
    return said(step=step, action=step)


def paths(script: Scripted) -> list[str]:
    return [asked.path.removeprefix("/v1/policies/cartpole") for asked in script.asked]


def test_every_request_names_the_run_and_the_step(connect: Connect) -> None:
    with scripted(begun(0), begun(1), begun(2), ENDED) as script:
        with connect(script.url).session(ROWS, id="env-7", run_id="r1") as session:
            assert (session.id, session.run_id, session.answer.step) == ("env-7", "r1", 0)
            assert session.step(ROWS).step == 1
            assert session.step(ROWS).step == 2
            assert session.answer.action == 2
        begin, *steps, end = script.asked
    assert (begin.path, begin.fields["id"], begin.fields["run_id"]) == ("/v1/policies/cartpole/sessions", "env-7", "r1")
    assert [asked.path for asked in steps] == ["/v1/policies/cartpole/sessions/env-7/action"] * 2
    assert [(asked.fields["step"], asked.fields["run_id"]) for asked in steps] == [(1, "r1"), (2, "r1")]
    assert (end.method, end.path) == ("DELETE", "/v1/policies/cartpole/sessions/env-7?run_id=r1")


def patience_s(*acts: Any) -> float:
    """Short where an answer comes too late; what comes at once may take its time on a busy machine."""
    return 2.0 if any(isinstance(act, Late) for act in acts) else 60.0


def test_names_that_are_not_given_are_new_each_time(connect: Connect) -> None:
    with scripted(begun(), begun()) as script:
        policy = connect(script.url)
        sessions = [policy.session(ROWS), policy.session(ROWS)]
        sent = [(asked.fields["id"], asked.fields["run_id"]) for asked in script.asked]
    assert sent == [(session.id, session.run_id) for session in sessions]
    assert len({name for names in sent for name in names}) == 4


def test_fields_of_the_beginning_and_of_a_step_are_sent(connect: Connect) -> None:
    with scripted(begun(), begun(1)) as script:
        session = connect(script.url).session(
            ROWS, weights="episode", record=False, mode="sample", seed=7, log_prob=True
        )
        reward, first = np.ones(3, np.float32), np.array([True, False, False])
        session.step(ROWS, reward=reward, discount=[1, 1, 0], first=first, step_type=[0, 1, 1], mode="greedy")
        begin, step = (asked.fields for asked in script.asked)
    assert (begin["weights"], begin["record"]) == ("episode", False)
    assert begin["options"] == {"mode": "sample", "seed": 7, "log_prob": True}
    assert step["reward"] == {"dtype": "float32", "shape": [3], "data": reward.tobytes()}
    assert (step["discount"], step["first"], step["step_type"]) == ([1, 1, 0], [True, False, False], [0, 1, 1])
    assert step["options"] == {"mode": "greedy"}


@pytest.mark.parametrize("loss", [Drop(), Late(begun(1)), problem(503, "Not ready", "the store cannot be reached")])
def test_a_lost_beginning_or_step_is_sent_again_as_it_was(connect: Connect, loss: Any) -> None:
    with scripted(loss, begun(0), loss, begun(1), loss, begun(2)) as script:
        session = connect(script.url, timeout_s=patience_s(loss)).session(ROWS)
        assert [session.step(ROWS).step, session.step(ROWS).step] == [1, 2]
    bodies = [asked.body for asked in script.asked]
    assert bodies[::2] == bodies[1::2]
    assert [asked.fields.get("step") for asked in script.asked] == [None, None, 1, 1, 2, 2]


def test_a_step_that_failed_may_be_taken_again(connect: Connect) -> None:
    refusal = problem(422, "Does not fit the spec", "observation: shape [3]")
    with scripted(begun(), refusal, begun(1)) as script:
        session = connect(script.url).session(ROWS)
        with pytest.raises(Exception, match="shape"):
            session.step(ROWS[:, :3])
        assert session.answer.step == 0
        assert session.step(ROWS).step == 1
    assert [asked.fields.get("step") for asked in script.asked] == [None, 1, 1]


def test_a_step_out_of_order_names_the_last_one(connect: Connect) -> None:
    conflict = problem(409, "Session conflict", "the session's last step is 5; the request's is 1", step=5)
    with scripted(begun(), conflict) as script:
        session = connect(script.url).session(ROWS)
        with pytest.raises(Conflict) as raised:
            session.step(ROWS)
    assert raised.value.step == 5
    assert len(script.asked) == 2


@pytest.mark.parametrize("acts", [[ENDED], [Drop(), GONE], [Late(ENDED), GONE], [GONE]])
def test_an_ending_that_finds_nothing_left_has_ended(connect: Connect, acts: list[Any]) -> None:
    with scripted(begun(), *acts) as script:
        connect(script.url, timeout_s=patience_s(*acts)).session(ROWS).close()
    assert len(script.asked) == 1 + len(acts)


def test_an_ending_by_a_run_that_lost_its_session_is_reported(connect: Connect) -> None:
    with scripted(begun(), problem(409, "Session conflict", "another run")) as script:
        session = connect(script.url).session(ROWS)
        with pytest.raises(Conflict, match="another run"):
            session.close()


def test_a_session_ends_with_its_block_also_when_that_fails(connect: Connect) -> None:
    with scripted(begun(), GONE, problem(500, "Internal error", "a bug")) as script:
        with pytest.raises(NotFound), connect(script.url).session(ROWS) as session:
            session.step(ROWS)
        assert [asked.method for asked in script.asked] == ["POST", "POST", "DELETE"]


def test_a_server_that_is_gone_is_not_waited_for_twice(connect: Connect) -> None:
    with scripted(begun(), *[Drop()] * 6) as script:
        with pytest.raises(Unavailable), connect(script.url).session(ROWS) as session:
            session.step(ROWS)
        assert {asked.method for asked in script.asked} == {"POST"}


def test_sessions_of_the_default_policy_and_what_is_known_of_one(connect: Connect) -> None:
    known = Answer(200, b'{"id": "a", "step": 0}')
    with scripted(begun(), begun(1), known, ENDED) as script:
        with connect(script.url, None).session(ROWS, id="a", run_id="b") as session:
            session.step(ROWS)
            assert session.describe() == {"id": "a", "step": 0}
        assert paths(script) == ["/sessions", "/sessions/a/action", "/sessions/a", "/sessions/a?run_id=b"]


def test_names_are_safe_in_an_address(connect: Connect) -> None:
    with scripted(begun(), ENDED) as script:
        connect(script.url).session(ROWS, id="a", run_id="run 1&2/ü").close()
        assert script.asked[1].path.endswith("/sessions/a?run_id=run+1%262%2F%C3%BC")
