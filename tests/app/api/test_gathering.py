"""Requests for several policies with the same spec, which come in one turn of the event loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from app.api.gathering import Gathering
from app.batching import turns
from app.batching.rule import Pause, Result
from app.errors import EngineFailed, Overloaded, PolicyServerError
from app.inference.policy import Policy
from app.inference.request_parser import PendingRequest
from app.inference.response import ResponseTemplate
from app.inference.service import Service
from app.wire.codecs import JSON
from tests.support.worker_in_process import Running, running

pytestmark = pytest.mark.anyio
NAMES = ("one", "two", "three")


class Request:
    """In the place of a connection's request: keeps its answer."""

    alone = True
    asked = gone = False
    _pending: PendingRequest

    def __init__(self, policy: Policy, gathering: Gathering, body: bytes) -> None:
        self.policy, self.gathering, self.body = policy, gathering, body
        self.answers: list[Any] = []
        self.asked_apart: list[bytes] = []

    def done(self) -> bool:
        return self.gone or bool(self.answers)

    def answer(self, body: bytes) -> None:
        self.answers.append(json.loads(body))

    def set_exception(self, error: Exception) -> None:
        self.answers.append(error)

    def ask(self, service: Service, body: bytes, now: float) -> None:
        assert not self.alone
        self.asked_apart.append(body)
        try:
            self._pending = service.parser.readers["action"](self.policy, JSON, body)
            service.submit(self._pending, self, now)
        except PolicyServerError as error:
            self.set_exception(error)

    def set_result(self, result: Result) -> None:
        self.answer(self._pending.answer(result, JSON))

    def gathered(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self.gathering.takes(self.policy, self, self.body, now)  # type: ignore[arg-type]

    @property
    def the_answer(self) -> Any:
        (answer,) = self.answers
        return answer


class Crowd:
    """What a worker is asked, after a turn in which many requests came."""

    def __init__(self, there: Running) -> None:
        self.there = there
        (self.gathering,) = there.worker._fast_path._gatherings.values()

    def policy(self, name: str) -> Policy:
        return self.there.worker._service.policy(name)

    def request(self, name: str, observation: Any) -> Request:
        body = observation if isinstance(observation, bytes) else json.dumps({"observation": observation}).encode()
        return Request(self.policy(name), self.gathering, body)

    def gather(self, *asked: tuple[str, float]) -> list[Request]:
        self.there.worker._turns.crowded = 1
        requests = [self.request(name, [value, 0, 0, 0]) for name, value in asked]
        assert all(request.gathered() for request in requests)
        return requests

    async def warm(self) -> None:
        """Has the batchers know that calls are short."""
        for name in NAMES:
            requests = self.gather((name, 0))
            while not requests[0].done():
                await asyncio.sleep(0)
            self.there.engines[name].seen.clear()


@asynccontextmanager
async def crowded(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Crowd]:
    async with running(monkeypatch, NAMES, **settings) as there:
        crowd = Crowd(there)
        for name in NAMES:
            crowd.policy(name).batcher._parts.__dict__["inline_s"] = 1.0
        await crowd.warm()
        yield crowd


async def turn_over() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def answer(place: int, value: float) -> dict[str, Any]:
    """That of a policy, to a request for a number."""
    return {"action": value + 1000 * place, "version": "export", "train_step": 7 + place}


MIXED = [("two", 1.0), ("one", 2.0), ("two", 3.0), ("three", 4.0), ("two", 5.0), ("one", 6.0)]


async def test_each_is_answered_by_its_own_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        requests = crowd.gather(*MIXED)
        await turn_over()
        expected = [answer(NAMES.index(name), value) for name, value in MIXED]
        assert [request.the_answer for request in requests] == expected
        assert [crowd.there.engines[name].seen for name in NAMES] == [[2.0, 6.0], [1.0, 3.0, 5.0], [4.0]]


async def test_what_cannot_be_read_with_the_others_is_asked_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        requests = crowd.gather(("one", 1.0), ("two", 2.0))
        unusual = [crowd.request("two", body) for body in (b"{", b'{"observation":[1,2,3,4],"options":{"seed":1}}')]
        gone = crowd.request("three", b"\xff")
        assert all(request.gathered() for request in (*unusual, gone))
        gone.gone = True
        requests += crowd.gather(("two", 3.0))
        await turn_over()
        assert [request.the_answer for request in requests] == [answer(0, 1.0), answer(1, 2.0), answer(1, 3.0)]
        assert [request.asked_apart for request in unusual] == [[request.body] for request in unusual]
        assert gone.asked_apart == gone.answers == crowd.there.engines["three"].seen == []


async def test_a_pause_of_one_policy_finishes_its_requests_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with crowded(monkeypatch) as crowd:
        requests = crowd.gather(*MIXED)
        await crowd.policy("two").batcher.pause(Pause.REJECT)
        done = [request for request in requests if request.policy.name == "two"]
        assert [request.the_answer["action"] for request in done] == [1001.0, 1003.0, 1005.0]
        assert not crowd.request("two", [0, 0, 0, 0]).gathered()
        await turn_over()
        assert [request.the_answer["action"] for request in requests] == [1001, 2, 1003, 2004, 1005, 6]


async def test_a_policy_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        run = crowd.there.engines["two"].run

        def broken(function: str, inputs: Any) -> Any:
            if (inputs["0/observation"][:, 0] == 3.0).any():
                raise RuntimeError("the graph is broken")
            return run(function, inputs)

        monkeypatch.setattr(crowd.there.engines["two"], "run", broken)
        requests = crowd.gather(*MIXED)
        await turn_over()
        found = [request.the_answer for request in requests]
        assert isinstance(found.pop(2), EngineFailed)
        assert found == [answer(1, 1.0), answer(0, 2.0), answer(2, 4.0), answer(1, 5.0), answer(0, 6.0)]


async def test_outputs_of_other_rows_than_were_asked_harm_no_other_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        monkeypatch.setattr(crowd.there.engines["two"], "run", lambda *_: {"action": np.array([1.0, 2.0], np.float32)})
        requests = crowd.gather(*MIXED)
        await turn_over()
        found = {request.body: request.the_answer for request in requests if request.policy.name != "two"}
        assert [one["action"] for one in found.values()] == [2.0, 2004.0, 6.0]
        assert all(request.done() for request in requests)


async def test_an_answer_that_is_not_finite_is_written_as_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        monkeypatch.setattr(
            crowd.there.engines["two"], "run", lambda *_: {"action": np.array([1.0, np.inf, 3.0], np.float32)}
        )
        requests = crowd.gather(*MIXED)
        await turn_over()
        assert [request.the_answer["action"] for request in requests] == [1.0, 2.0, "Infinity", 2004.0, 3.0, 6.0]


@pytest.mark.parametrize("limit", ["_MOST_TOGETHER", "_MOST_WAIT_S"])
async def test_the_first_policies_are_answered_before_too_many_others_are_computed(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    async with crowded(monkeypatch) as crowd:
        monkeypatch.setattr(turns, limit, {"_MOST_TOGETHER": 1, "_MOST_WAIT_S": -1.0}[limit])
        requests = crowd.gather(*MIXED)
        done: list[list[str]] = []
        run = crowd.there.engines["three"].run

        def noted(function: str, inputs: Any) -> Any:
            done.append([request.policy.name for request in requests if request.done()])
            return run(function, inputs)

        monkeypatch.setattr(crowd.there.engines["three"], "run", noted)
        await turn_over()
        assert done == [["two", "one", "two", "two", "one"]]
        expected = [answer(NAMES.index(name), value) for name, value in MIXED]
        assert [request.the_answer for request in requests] == expected


async def test_a_bug_in_what_writes_answers_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        monkeypatch.setattr(ResponseTemplate, "json_of_each", lambda *_: [b"{}"])  # one of six
        requests = crowd.gather(*MIXED)
        await turn_over()
        found = [request.the_answer for request in requests]
        assert found.count({}) == 1
        assert sum(isinstance(one, EngineFailed) for one in found) == 5


async def test_those_that_wait_count_in_the_queue_of_their_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch, queue_limit_requests=3) as crowd:
        requests = crowd.gather(("one", 1.0), ("one", 2.0), ("one", 3.0), ("two", 4.0))
        assert not crowd.request("one", [0, 0, 0, 0]).gathered()
        assert crowd.request("two", [0, 0, 0, 0]).gathered()
        service = crowd.there.worker._service
        pending: Any = service.parser.readers["action"](crowd.policy("one"), JSON, b'{"observation":[9,0,0,0]}')
        with pytest.raises(Overloaded, match="3 requests wait already"):
            service.submit(pending, asyncio.get_running_loop().create_future(), 0.0)
        await turn_over()
        assert [request.the_answer["action"] for request in requests] == [1.0, 2.0, 3.0, 1004.0]


async def test_what_is_asked_apart_has_its_place_in_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch, queue_limit_requests=3) as crowd:
        requests = crowd.gather(("one", 1.0), ("one", 2.0))
        unusual = crowd.request("one", b'{"observation":[3,0,0,0],"step_type":0}')
        assert unusual.gathered()
        await turn_over()
        assert [request.the_answer["action"] for request in (*requests, unusual)] == [1.0, 2.0, 3.0]


async def test_the_end_of_a_policy_finishes_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch) as crowd:
        requests = crowd.gather(*MIXED)
        await crowd.policy("two").batcher.close()
        done = [request for request in requests if request.policy.name == "two"]
        assert [request.the_answer["action"] for request in done] == [1001.0, 1003.0, 1005.0]
        await turn_over()
        assert all(request.done() for request in requests)


async def test_a_bug_in_what_reads_them_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowded(monkeypatch, queue_limit_requests=3) as crowd:
        with monkeypatch.context() as broken:
            broken.setattr(Gathering, "_jobs_of", None)
            requests = crowd.gather(*MIXED)
            await turn_over()
        assert all(isinstance(request.the_answer, EngineFailed) for request in requests)
        await answered_as_ever(crowd)


@pytest.mark.parametrize("part", ["_call_times", "_arrivals"])
async def test_a_bug_in_what_computes_for_one_policy_harms_no_other(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    async with crowded(monkeypatch, queue_limit_requests=3) as crowd:
        with monkeypatch.context() as broken:
            broken.setattr(crowd.policy("two").batcher, part, None)  # before its call, and after it
            requests = crowd.gather(*MIXED)
            await turn_over()
        found = {name: [one.the_answer for one in requests if one.policy.name == name] for name in NAMES}
        assert all(isinstance(one, EngineFailed) for one in found.pop("two"))
        assert found == {"one": [answer(0, 2.0), answer(0, 6.0)], "three": [answer(2, 4.0)]}
        await answered_as_ever(crowd)


async def answered_as_ever(crowd: Crowd) -> None:
    """Requests that failed have left the queue of the policy, in which there is room for three."""
    requests = crowd.gather(*[("two", 1.0)] * 3)
    await turn_over()
    assert [request.the_answer for request in requests] == [answer(1, 1.0)] * 3
