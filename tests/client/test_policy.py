"""What both kinds of clients send, what they make of answers, and what they do when none comes."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

import policy_client
from policy_client import (
    Conflict,
    Denied,
    DoesNotFit,
    Experience,
    NotFound,
    PolicyError,
    RemotePolicy,
    Retries,
    Unavailable,
    Unsupported,
)
from tests.support.scripted_server import Answer, Drop, Late, nobody, problem, said, scripted

Connect = Callable[..., Any]
ROW = np.array([0.5, -0.25, 2, 0], np.float32)
TENSOR = {"dtype": "float32", "shape": [4], "data": ROW.tobytes()}
BUSY = problem(429, "Overloaded", "the queue is full")
NOT_READY = problem(503, "Not ready", "the server is stopping")
LIMIT = 5  # of repetitions, see conftest.py


def test_an_observation_alone_is_sent_alone(connect: Connect) -> None:
    with scripted(said(action=1)) as script:
        answer = connect(script.url).action(ROW)
    (asked,) = script.asked
    assert (asked.method, asked.path, asked.fields) == (
        "POST",
        "/v1/policies/cartpole/action",
        {"observation": TENSOR},
    )
    assert asked.headers["content-type"] == asked.headers["accept"] == "application/msgpack"
    assert asked.headers["host"] == script.url.removeprefix("http://")
    assert "authorization" not in asked.headers
    assert (answer.action, answer.version, answer.train_step) == (1, "export", 11)
    assert (answer.policy_state, answer.info, answer.log_prob, answer.step) == (None, None, None, None)


def test_every_field_and_option_is_sent_where_the_server_looks_for_it(connect: Connect) -> None:
    fields = {"reward": 0.5, "discount": 1.0, "step_type": 1, "policy_state": [ROW, ROW]}
    options = {"mode": "sample", "seed": 7, "log_prob": True, "min_train_step": 3, "timeout_ms": 500, "version": "v1"}
    with scripted(said(action=1, log_prob=-0.5, info={"row": 2.0}, policy_state=[TENSOR])) as script:
        answer = connect(script.url).action({"camera": ROW, "gear": (1, 2)}, **fields, **options)
    assert script.asked[0].fields == {
        "observation": {"camera": TENSOR, "gear": [1, 2]},
        "reward": 0.5,
        "discount": 1.0,
        "step_type": 1,
        "policy_state": [TENSOR, TENSOR],
        "options": options,
    }
    assert (answer.log_prob, answer.info) == (-0.5, {"row": 2.0})
    np.testing.assert_array_equal(answer.policy_state[0], ROW)


def test_fields_that_are_none_are_not_sent(connect: Connect) -> None:
    with scripted(said(action=1)) as script:
        connect(script.url).action(ROW, policy_state=None, reward=None, mode=None, timeout_ms=None)
    assert script.asked[0].fields == {"observation": TENSOR}


def test_a_misspelled_field_is_refused_at_home(connect: Connect) -> None:
    with (
        scripted() as script,
        pytest.raises(TypeError, match=r"'rewards' is no field of this call; there are: .*reward"),
    ):
        connect(script.url).action(ROW, rewards=1)
    assert not script.asked


def test_without_a_name_the_default_policy_is_asked(connect: Connect) -> None:
    listed = Answer(200, b'{"policies": [{"name": "first"}, {"name": "second"}]}')
    with scripted(said(action=1), said(distribution=1), said(policy_state=[]), listed, Answer(200, b"{}")) as script:
        policy = connect(script.url + "/", None)
        policy.action(ROW)
        policy.distribution(ROW)
        policy.get_initial_state()
        policy.describe()
    assert [asked.path for asked in script.asked] == [
        "/action",
        "/distribution",
        "/get_initial_state",
        "/v1/policies",
        "/v1/policies/first",
    ]


def test_a_server_may_be_mounted_below_a_path(connect: Connect) -> None:
    with scripted(said(action=1)) as script:
        connect(script.url + "/below/", "a policy").action(ROW)
    assert script.asked[0].path == "/below/v1/policies/a%20policy/action"


def test_the_token_is_sent(connect: Connect) -> None:
    with scripted(said(action=1)) as script:
        connect(script.url, token="secret").action(ROW)
    assert script.asked[0].headers["authorization"] == "Bearer secret"


def test_a_distribution_is_a_nest_of_families_with_arrays(connect: Connect) -> None:
    leaf = {"family": "categorical", "parameters": {"logits": TENSOR}, "mode": 1, "entropy": 0.5}
    with scripted(said(distribution=leaf, policy_state=[TENSOR])) as script:
        answer = connect(script.url).distribution(ROW, reward=1.0)
    assert script.asked[0].fields == {"observation": TENSOR, "reward": 1.0}
    assert (answer.distribution["family"], answer.distribution["entropy"]) == ("categorical", 0.5)
    np.testing.assert_array_equal(answer.distribution["parameters"]["logits"], ROW)
    np.testing.assert_array_equal(answer.policy_state[0], ROW)


@pytest.mark.parametrize(("size", "sent"), [(None, {}), (3, {"batch_size": 3})])
def test_initial_states_are_asked_for_alone_or_as_a_batch(connect: Connect, size: int | None, sent: Any) -> None:
    with scripted(said(policy_state=[TENSOR])) as script:
        (state,) = connect(script.url).get_initial_state(size)
    assert script.asked[0].fields == sent
    np.testing.assert_array_equal(state, ROW)


def test_one_connection_serves_many_calls(connect: Connect) -> None:
    with scripted(*[said(action=1)] * 20) as script:
        policy = connect(script.url)
        for _ in range(20):
            policy.action(ROW)
    assert len(script.clients) == 1


@pytest.mark.parametrize(
    "failures",
    [
        [Drop()],
        [Drop(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")],
        [Drop(b"no HTTP at all\r\n\r\n")],
        [BUSY, BUSY],
        [NOT_READY],
        [Answer(502, b"<html>Bad Gateway</html>")],
        [Drop(), BUSY, NOT_READY, Drop(), Drop()],
    ],
)
def test_what_got_no_answer_is_sent_again_as_it_was(connect: Connect, failures: list[Any]) -> None:
    with scripted(*failures, said(action=1)) as script:
        assert connect(script.url).action(ROW, seed=7).action == 1
    assert len(script.asked) == len(failures) + 1
    assert len({asked.body for asked in script.asked}) == 1


def test_an_answer_that_comes_too_late_is_asked_for_again(connect: Connect) -> None:
    with scripted(Late(said(action=0)), said(action=1)) as script:
        assert connect(script.url, timeout_s=2).action(ROW).action == 1
    assert len(script.asked) == 2


def test_the_call_waits_as_long_as_it_lets_the_server_wait() -> None:
    with RemotePolicy("http://localhost", timeout_s=0.05) as policy:
        request = policy.calls.action(ROW, {"timeout_ms": 60_000}).request
        assert request.extensions["timeout"]["read"] == 61
        request = policy.calls.action(ROW, {"timeout_ms": 10}).request
        assert request.extensions["timeout"]["read"] == 1.01


def test_nobody_there_is_unavailable_after_all_attempts(connect: Connect) -> None:
    url = nobody()
    with pytest.raises(Unavailable, match=rf"POST {url}/v1/.*: no answer after {LIMIT + 1} attempts .* ConnectError"):
        connect(url).action(ROW)


def test_a_server_that_stays_busy_is_unavailable_with_its_reason(connect: Connect) -> None:
    with scripted(*[BUSY] * (LIMIT + 1)) as script:
        with pytest.raises(Unavailable, match=f"the queue is full after {LIMIT + 1} attempts") as raised:
            connect(script.url).action(ROW)
        assert raised.value.status == 429
    assert len(script.asked) == LIMIT + 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, policy_client.BadRequest),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (413, policy_client.BadRequest),
        (415, policy_client.BadRequest),
        (422, DoesNotFit),
        (500, policy_client.ServerFailed),
        (501, Unsupported),
        (504, policy_client.DeadlinePassed),
    ],
)
def test_a_refusal_raises_its_own_error_and_is_not_repeated(
    connect: Connect, status: int, kind: type[PolicyError]
) -> None:
    findings = [{"where": "observation", "problem": "shape [3]", "expected": "float32 of shape [4]"}]
    refusal = problem(status, "A title", "observation: shape [3]", errors=findings * 2, step=4)
    with scripted(refusal, said(action=1)) as script:
        with pytest.raises(kind) as raised:
            connect(script.url).action(ROW)
        error = raised.value
        assert type(error) is kind
    assert len(script.asked) == 1
    assert (error.status, error.title, error.detail, error.step) == (status, "A title", "observation: shape [3]", 4)
    assert error.errors == (findings[0], findings[0])
    assert f"{status} A title: observation: shape [3]" in str(error)
    assert "expected float32 of shape [4]" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome</html>"),
        Answer(200, b"\x81\xa1a\x01"),
        said(action={"dtype": "float32", "shape": [3], "data": b"few"}),
        Answer(302, b"", {"Location": "http://localhost:1/"}),
        Answer(418, b"a teapot"),
    ],
)
def test_an_answer_of_something_else_than_a_policy_server_is_an_error(connect: Connect, answer: Answer) -> None:
    with scripted(answer) as script, pytest.raises(PolicyError, match=rf"status {answer.status}") as raised:
        connect(script.url).action(ROW)
    assert type(raised.value) is PolicyError
    assert len(script.asked) == 1


def test_retries_can_be_turned_off(connect: Connect) -> None:
    with scripted(Drop(), said(action=1)) as script, pytest.raises(Unavailable, match="after 1 attempt"):
        connect(script.url, retries=Retries(limit=0)).action(ROW)
    assert len(script.asked) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "redis://host"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a server; expected one like http://localhost:8000"):
        RemotePolicy(url)


class ClosedMeanwhile(httpx.BaseTransport):
    """Loses the first request, while another thread closes the client, and answers the others."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.asked = 0
        self._close = close

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked > 1:
            return httpx.Response(500)
        self._close()
        raise httpx.ReadError("closed", request=request)


def test_nothing_is_sent_again_by_a_client_that_was_closed_meanwhile() -> None:
    transport = ClosedMeanwhile(lambda: policy.close())
    policy = RemotePolicy("http://localhost", "cartpole", transport=transport)
    with pytest.raises(Unavailable, match="closed before there was an answer"):
        policy.action(ROW)
    assert transport.asked == 1


def test_experience_ends_where_it_is_closed_while_it_waits() -> None:
    transport = ClosedMeanwhile(lambda: experience.close())
    experience = Experience("http://localhost", "cartpole")
    experience.policy = RemotePolicy("http://localhost", "cartpole", transport=transport)
    assert list(experience) == []
    assert transport.asked == 1
