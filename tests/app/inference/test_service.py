import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching.rule import Job, Pause
from app.batching.timing import timing_of_task
from app.errors import DeadlinePassed, NotReady, UnknownPolicy
from app.inference.service import Service
from app.wire.limits import SMALL_BYTES

pytestmark = pytest.mark.anyio


class BusyWorkers:
    """One of them runs a batch that never ends."""

    async def pause(self, mode: str) -> None:
        await asyncio.Event().wait()


def named(name: str, **parts: Any) -> Any:
    return SimpleNamespace(name=name, **parts)


async def test_pause_does_not_wait_for_ever() -> None:
    policy = named("p", manager=BusyWorkers())
    service = Service(["p"], deadline_ms=10, rows_limit=1)
    service.add(policy)
    with pytest.raises(DeadlinePassed, match="policy p still runs a batch after 10 ms"):
        await service.pause(policy, Pause.WAIT)


async def test_policies_are_found_by_name_and_the_first_is_the_default() -> None:
    service = Service(["b", "a"], deadline_ms=10, rows_limit=1)
    a, b = named("a"), named("b")
    service.add(a)
    assert (service.policies, service.failed, service.default) == ([a], ["b"], "b")
    service.add(b)
    assert service.policies == [b, a]
    assert service.policy(None) is b
    assert service.policy("a") is a
    with pytest.raises(UnknownPolicy, match="there are: b, a"):
        service.policy("c")


async def test_policy_that_cannot_be_opened_says_why_until_it_is() -> None:
    service = Service(["p"], deadline_ms=10, rows_limit=1)
    with pytest.raises(NotReady, match="it has not been tried yet"):
        service.policy("p")
    service.fail({"p": "no policy.json"})
    with pytest.raises(NotReady, match=r"cannot be opened: no policy\.json"):
        service.policy("p")
    assert service.describe_all()[0]["reason"] == "no policy.json"
    service.add(named("p"))
    assert service.policy("p").name == "p"
    assert service.failed == []


@pytest.mark.parametrize(
    ("size", "quickly", "reader", "elsewhere"),
    [
        (SMALL_BYTES, True, "read", False),
        (SMALL_BYTES + 1, True, "at_once", False),
        (SMALL_BYTES + 1, False, "large", True),
    ],
)
async def test_bodies_are_read_where_their_size_says(size: int, quickly: bool, reader: str, elsewhere: bool) -> None:
    calls: list[tuple[str, bool]] = []

    def reads(name: str, answer: str | None) -> Any:
        def read(body: bytes) -> str | None:
            assert len(body) == size
            calls.append((name, threading.current_thread() is not threading.main_thread()))
            return answer

        return read

    service = Service(["p"], deadline_ms=10, rows_limit=1)
    at_once = reads("at_once", "at_once" if quickly else None)
    found = await service.read_body(bytes(size), reads("read", "read"), at_once, reads("large", "large"))
    assert found == reader
    assert calls[-1] == (reader, elsewhere)


async def test_large_body_without_another_reader_is_read_by_the_usual_one_elsewhere() -> None:
    service = Service(["p"], deadline_ms=10, rows_limit=1)
    thread = await service.read_body(bytes(SMALL_BYTES + 1), lambda _: threading.current_thread())
    assert thread is not threading.main_thread()


@pytest.mark.parametrize("is_timed", [False, True])
async def test_a_request_is_timed_once_by_whoever_reads_it_first(is_timed: bool) -> None:
    """Or a batcher would wait for ever for the second of them."""
    timed: list[Any] = []

    def submit(job: Any, _: bool) -> None:
        job.waiter.set_result("answer")

    batcher = SimpleNamespace(time=lambda job, timing: timed.append(timing), submit=submit)
    timing: Any = object()
    job = Job("action", {}, 1, timing=timing if is_timed else None)
    pending: Any = SimpleNamespace(policy=named("p", batcher=batcher), job=job, timeout_s=None)
    token = timing_of_task.set(timing)
    try:
        answer: Any = await Service(["p"], deadline_ms=1000, rows_limit=1).answered(pending)
    finally:
        timing_of_task.reset(token)
    assert answer == "answer"
    assert timed == ([] if is_timed else [timing])
