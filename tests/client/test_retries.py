"""When a request is sent again, decided without sending any."""

import re
import time
from email.utils import formatdate

import httpx
import pytest

from policy_client import Conflict, PolicyError, Retries, Unavailable
from policy_client.retries import Attempts

REQUEST = httpx.Request("POST", "http://host/action")
REFUSED = httpx.ConnectError("connection refused")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(retry_after: str = "", status: int = 429) -> httpx.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return httpx.Response(status, headers=headers, json={"title": "Overloaded", "detail": "the queue is full"})


@pytest.mark.parametrize(
    ("repetition", "spent_s", "asked_s", "expected"),
    [
        (1, 0, 0, 0.1),
        (2, 0, 0, 0.2),
        (4, 0, 0, 0.8),
        (5, 0, 0, 1.0),  # the longest
        (10_000, 0, 0, None),
        (6, 0, 0, None),  # one more than the limit
        (1, 0, 0.7, 0.7),  # as long as the server asks
        (1, 0, 60, 1.0),  # but no longer than the longest
        (5, 9.0, 0, 1.0),
        (5, 9.1, 0, None),  # it would begin after the end
    ],
)
def test_waits(repetition: int, spent_s: float, asked_s: float, expected: float | None) -> None:
    retries = Retries(limit=5, first_wait_s=0.1, longest_wait_s=1.0, total_s=10.0)
    assert retries.wait_s(repetition, spent_s, asked_s) == expected


def test_chance_leaves_out_up_to_half_of_a_wait_but_not_of_what_the_server_asks() -> None:
    retries = Retries(first_wait_s=1.0)
    assert retries.wait_s(1, 0, chance=0.0) == 0.5
    assert retries.wait_s(1, 0, asked_s=0.8, chance=0.0) == 0.8


def test_as_many_repetitions_as_allowed_and_then_the_last_failure_is_raised() -> None:
    attempts = Attempts(REQUEST, Retries(limit=2, first_wait_s=0.5), Clock())
    assert [0.25 <= attempts.lost(REFUSED) <= 0.5, 0.5 <= attempts.lost(REFUSED) <= 1] == [True, True]
    expected = "POST http://host/action: no answer after 3 attempts in 0.0 s: ConnectError: connection refused"
    with pytest.raises(Unavailable, match=f"^{re.escape(expected)}$") as raised:
        attempts.lost(REFUSED)
    assert raised.value.__cause__ is REFUSED
    assert raised.value.status is None


def test_no_attempt_begins_after_the_end() -> None:
    clock = Clock()
    attempts = Attempts(REQUEST, Retries(limit=1000, total_s=30), clock)

    def time_out() -> None:
        clock.now += 10
        clock.now += attempts.lost(httpx.ReadTimeout("timed out"))

    time_out()
    time_out()
    with pytest.raises(Unavailable, match=r"after 3 attempts in 30\.\d s"):
        time_out()


@pytest.mark.parametrize("status", [429, 502, 503])
def test_the_server_s_own_wait_is_obeyed(status: int) -> None:
    assert Attempts(REQUEST, Retries()).refused(busy("2", status)) == 2
    assert Attempts(REQUEST, Retries(longest_wait_s=1)).refused(busy("2", status)) == 1


def test_a_wait_may_be_given_as_a_date() -> None:
    wait_s = Attempts(REQUEST, Retries(longest_wait_s=100, total_s=100)).refused(
        busy(formatdate(time.time() + 50, usegmt=True))
    )
    assert 45 < wait_s <= 50


@pytest.mark.parametrize("retry_after", ["soon", "-3", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_wait_that_cannot_be_read_is_none(retry_after: str) -> None:
    assert Attempts(REQUEST, Retries()).refused(busy(retry_after)) <= 0.05


def test_a_server_that_stays_busy_is_unavailable_with_its_own_words() -> None:
    attempts = Attempts(REQUEST, Retries(limit=0))
    with pytest.raises(Unavailable, match="429 Overloaded: the queue is full after 1 attempt in") as raised:
        attempts.refused(busy())
    assert (raised.value.status, raised.value.detail) == (429, "the queue is full")


@pytest.mark.parametrize("status", [302, 400, 401, 404, 409, 413, 422, 500, 501, 504])
def test_a_refusal_that_would_come_again_is_not_asked_for_twice(status: int) -> None:
    with pytest.raises(PolicyError) as raised:
        Attempts(REQUEST, Retries()).refused(httpx.Response(status, json={"title": "No", "detail": "no", "step": 3}))
    assert raised.value.status == status
    assert not isinstance(raised.value, Unavailable)
    assert raised.value.step == 3
    assert isinstance(raised.value, Conflict) == (status == 409)


def test_a_request_that_cannot_be_sent_is_not_sent_again() -> None:
    with pytest.raises(PolicyError, match="UnsupportedProtocol: no such scheme") as raised:
        Attempts(REQUEST, Retries()).lost(httpx.UnsupportedProtocol("no such scheme"))
    assert not isinstance(raised.value, Unavailable)
