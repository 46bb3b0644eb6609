"""Jobs that run as soon as they come, and those that wait for others of the same turn of the event loop."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching.rule import Pause
from app.batching.turns import Arrivals, Turns
from app.errors import NotReady
from tests.support.batcher import Harness, answers, open_harness, settled, threads_of

pytestmark = pytest.mark.anyio
SHORT_S = 1.0


async def warm(harness: Harness) -> None:
    """Has the batcher know that calls are short."""
    assert answers(await harness.submit(0)) == [0]
    harness.engine.calls.clear()


async def test_a_job_that_comes_alone_is_answered_before_the_call_returns() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        for value in range(5):
            done = harness.submit_alone(value)
            assert answers(done.result()) == [value]
            await asyncio.sleep(0)
        assert harness.engine.calls == [1] * 5


async def test_jobs_of_one_turn_wait_for_each_other_from_the_second_on() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        found = [harness.submit_alone(value) for value in range(4)]
        assert [done.done() for done in found] == [True, False, False, False]
        await asyncio.gather(*found)
        found = [harness.submit_alone(value) for value in range(4)]
        assert not any(done.done() for done in found)
        assert [answers(await done) for done in found] == [[value] for value in range(4)]
        assert harness.engine.calls == [1, 3, 4]


async def test_jobs_run_alone_again_after_some_turns_with_one() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        await asyncio.gather(*[harness.submit_alone(value) for value in range(3)])
        waited = 0
        while not (done := harness.submit_alone(7)).done():
            assert answers(await done) == [7]
            waited += 1
        assert 1 <= waited < 100


async def test_what_comes_with_others_waits_for_the_end_of_the_turn_whatever_its_policy() -> None:
    turns = Turns(asyncio.get_running_loop())
    one, other = Arrivals(turns), Arrivals(turns)
    found = []
    for arrivals in (one, other, one, other):
        found.append(arrivals.is_alone())
        if found[-1]:
            arrivals.note_alone()
    assert found == [True, False, False, False]
    await asyncio.sleep(0)
    assert [arrivals.is_alone() for arrivals in (one, other)] == [False, True], "only one has had two in a turn"


class Policies:
    """Batchers with a batch each, and what happens to them, in its order."""

    def __init__(self) -> None:
        self.now = 7.0
        self.turns = Turns(asyncio.get_running_loop(), lambda: self.now)
        self.all: list[str] = []

    def write_now(self, data: bytes) -> None:
        self.all.append(f"sent {data.decode()}")

    def batcher(self, name: str, takes_s: float = 0, is_in_thread: bool = False, takes_more: bool = False) -> Any:
        def deliver() -> None:
            self.all.append(f"delivered {name}")
            if not self.turns.cork.hold(self, name.encode()):
                self.write_now(name.encode())

        def compute() -> Callable[[], None] | None:
            self.all.append(f"computed {name}")
            self.now += takes_s
            return None if is_in_thread else deliver

        return SimpleNamespace(compute=compute, takes_more=lambda: takes_more)

    async def run(self, *batchers: Any) -> list[str]:
        for batcher in batchers:
            self.turns.add(batcher)
        assert self.all == []
        await asyncio.sleep(0)
        return self.all


def phases(*names: str) -> list[str]:
    return [f"{what} {name}" for what in ("computed", "delivered", "sent") for name in names]


async def test_policies_of_one_turn_are_computed_then_delivered_then_sent() -> None:
    policies = Policies()
    assert await policies.run(*map(policies.batcher, "abc")) == phases("a", "b", "c")


async def test_many_policies_take_several_rounds() -> None:
    policies = Policies()
    names = [f"{number}" for number in range(40)]
    found = await policies.run(*map(policies.batcher, names))
    assert found == phases(*names[:32]) + phases(*names[32:])


async def test_a_turn_with_several_requests_of_a_policy_lasts_for_another_look_at_the_connections_and_no_more() -> None:
    policies = Policies()
    assert await policies.run(policies.batcher("a"), policies.batcher("b", takes_more=True)) == []
    assert policies.turns.is_open
    policies.turns.add(policies.batcher("c", takes_more=True))  # it has come meanwhile
    await asyncio.sleep(0)
    assert policies.all == phases("a", "b", "c")
    policies.all.clear()
    assert await policies.run(policies.batcher("d", takes_more=True)) == [], "the next turn is looked at anew"
    await asyncio.sleep(0)
    assert policies.all == phases("d")


async def test_what_was_gathered_is_computed_first_and_what_batchers_get_by_it_in_the_same_turn() -> None:
    policies = Policies()
    late, gathered = policies.batcher("late"), [policies.batcher("one"), policies.batcher("two")]

    def compute() -> Callable[[], None] | None:
        if gathered:
            return gathered.pop(0).compute()  # type: ignore[no-any-return]
        policies.turns.add(late)
        return None

    policies.turns.add(policies.batcher("b"))
    policies.turns.add_gathered(SimpleNamespace(compute=compute, takes_more=lambda: False))
    await asyncio.sleep(0)
    assert policies.all == [*phases("one"), *phases("two"), *phases("b", "late")]
    assert not policies.turns.is_open


async def test_requests_that_were_gathered_make_a_turn_long_as_others_do() -> None:
    policies = Policies()
    gathered = [policies.batcher("gathered")]
    compute = SimpleNamespace(compute=lambda: gathered.pop().compute() if gathered else None, takes_more=lambda: True)
    policies.turns.add_gathered(compute)
    await asyncio.sleep(0)
    assert policies.all == []
    await asyncio.sleep(0)
    assert policies.all == phases("gathered")


async def test_after_a_turn_with_many_requests_many_are_expected_for_some_turns() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:

        async def turn(count: int) -> int:
            await asyncio.gather(*[harness.submit(value) for value in range(count)])
            await settled()
            return harness.batcher.turns.crowded

        assert not await turn(3)
        most = await turn(4)
        assert [await turn(3), await turn(1)] == [most - 1, most - 2]
        assert await turn(9) == most
        for _ in range(most):
            assert harness.batcher.turns.crowded
            await turn(2)
        assert not harness.batcher.turns.crowded


async def test_a_client_that_asks_again_in_the_second_half_of_a_long_turn_is_still_alone() -> None:
    policies = Policies()
    arrivals = Arrivals(policies.turns)
    assert arrivals.is_alone()
    arrivals.note_alone()
    await policies.run(policies.batcher("b", takes_more=True))
    assert not arrivals.is_alone(), "the turn goes on"
    await asyncio.sleep(0)
    assert policies.all == phases("b")
    assert arrivals.is_alone()


async def test_the_next_requests_are_looked_for_once_the_answers_have_left() -> None:
    policies = Policies()
    looked: list[list[str]] = []
    policies.turns.poll = SimpleNamespace(answered=lambda: looked.append(policies.all.copy()))  # type: ignore[assignment]
    await policies.run(policies.batcher("a"), policies.batcher("b"))
    assert looked == [phases("a", "b")]
    Arrivals(policies.turns).note_alone()
    assert len(looked) == 2


class Held:
    """The waiter of a job whose answer is to leave by the cork. `sent`: how many of all had been written by then."""

    def __init__(self, cork: Any, all_of_them: list[Any]) -> None:
        self.cork, self.all = cork, all_of_them
        self.is_done = False
        self.sent: int | None = None

    def done(self) -> bool:
        return self.is_done

    def set_result(self, _: Any) -> None:
        self.is_done = True
        if not self.cork.hold(self, b"an answer"):
            self.write_now(b"")

    def set_exception(self, error: Exception) -> None:
        raise error

    def write_now(self, _: bytes) -> None:
        self.sent = sum(one.done() for one in self.all)


@pytest.mark.parametrize(("count", "sent"), [(3, [1, 2, 3]), (9, [9] * 9)])
async def test_many_answers_of_a_batch_leave_when_all_are_written_and_few_at_once(count: int, sent: list[int]) -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        waiters: list[Held] = []
        for number in range(count):
            job = harness.job(number)
            job.waiter = Held(harness.batcher.turns.cork, waiters)
            waiters.append(job.waiter)
            harness.batcher.submit(job)
        await settled()
        assert [waiter.sent for waiter in waiters] == sent
        assert harness.engine.calls == [count]


@pytest.mark.parametrize(("dependent", "isolated"), [("a reason", False), ("", True)])
async def test_a_turn_is_not_longer_for_jobs_that_share_no_call(dependent: str, isolated: bool) -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        harness.loaded.version = replace(harness.loaded.version, dependent_rows=dependent)
        await warm(harness)
        jobs = [harness.submit(number, isolated=isolated) for number in range(2)]
        assert not harness.batcher.takes_more()
        assert [answers(await job) for job in jobs] == [[0], [1]]
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        jobs = [harness.submit(number) for number in range(2)]
        assert harness.batcher.takes_more()
        await asyncio.gather(*jobs)
        assert not harness.batcher.takes_more()


async def test_who_is_computed_does_not_wait_for_long() -> None:
    policies = Policies()
    batchers = [policies.batcher("a"), policies.batcher("b", takes_s=0.01), policies.batcher("c")]
    assert await policies.run(*batchers) == phases("a", "b") + phases("c")


async def test_a_batch_that_runs_in_a_thread_is_not_delivered_here() -> None:
    policies = Policies()
    found = await policies.run(policies.batcher("a", is_in_thread=True), policies.batcher("b"))
    assert found == ["computed a", "computed b", "delivered b", "sent b"]


async def test_a_policy_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    policies = Policies()
    broken = SimpleNamespace(compute=lambda: 1 / 0, takes_more=lambda: False)
    assert await policies.run(broken, policies.batcher("b")) == ["computed b", "delivered b", "sent b"]
    assert "ZeroDivisionError" in caplog.text


async def test_what_becomes_due_meanwhile_has_the_next_turn() -> None:
    policies = Policies()
    later = policies.batcher("later")
    first = SimpleNamespace(compute=lambda: policies.turns.add(later), takes_more=lambda: False)
    assert await policies.run(first) == []
    await asyncio.sleep(0)
    assert policies.all == phases("later")


async def test_a_long_call_runs_in_the_thread_and_the_next_jobs_wait_for_it() -> None:
    async with open_harness() as harness:
        threads = threads_of(harness)
        harness.engine.go_on.clear()
        first = harness.submit_alone(1)
        await harness.held()
        await asyncio.sleep(0)
        second = harness.submit_alone(2)
        await settled()
        assert not second.done()
        harness.engine.go_on.set()
        assert [answers(await done) for done in (first, second)] == [[1], [2]]
        assert all("MainThread" not in name for name in threads)


async def test_what_waits_is_not_overtaken() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        first = harness.submit(1)
        second = harness.submit_alone(2)
        assert not second.done()
        await asyncio.gather(first, second)
        assert harness.engine.calls == [2]


async def test_a_job_alone_waits_for_the_end_of_a_pause_and_of_a_hold_or_is_refused() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        await harness.batcher.pause(Pause.WAIT)
        waits = harness.submit_alone(1)
        await settled()
        assert not waits.done()
        harness.batcher.resume()
        assert answers(await waits) == [1]
        await harness.batcher.hold(60)
        held = harness.submit_alone(2)
        await settled()
        assert not held.done()
        harness.batcher.release()
        assert answers(await held) == [2]
        await harness.batcher.pause(Pause.REJECT)
        with pytest.raises(NotReady):
            harness.submit_alone(3)


async def test_a_job_alone_that_fails_fails_alone() -> None:
    async with open_harness(inline_s=SHORT_S) as harness:
        await warm(harness)
        harness.engine.fails_at = 1.0
        broken = harness.submit_alone(1)
        assert "RuntimeError" in str(broken.exception())
        await asyncio.sleep(0)
        assert answers(await harness.submit_alone(2)) == [2]
