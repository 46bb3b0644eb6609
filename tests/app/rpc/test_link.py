import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from app.errors import DoesNotFit, Fault, LinkLost, Problem, Refusal, SwapRefused
from app.rpc.link import Link


async def echo(*args: Any) -> tuple[Any, ...]:
    return args


async def refuse() -> None:
    raise SwapRefused("the disk is full", for_now=True)


class Misfit(Refusal):
    """An error that is written, and cannot be read again."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")


async def misfit() -> None:
    raise Misfit("x", "is 7")


async def unfit() -> None:
    raise DoesNotFit([Problem("x", "is 7", "a letter")])


@asynccontextmanager
async def linked(**handlers: Callable[..., Awaitable[Any]]) -> AsyncIterator[tuple[Link, Link]]:
    one, other = socket.socketpair()
    first, second = await Link.over(one, {}), await Link.over(other, handlers)
    try:
        yield first, second
    finally:
        await first.close()
        await second.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def test_a_call_returns_what_the_other_side_returns():
    async def test() -> None:
        async with linked(echo=echo) as (link, _):
            assert await link.call("echo", 1, "two", {"three": b"3"}) == (1, "two", {"three": b"3"})
            (array,) = await link.call("echo", np.arange(1_000_000))
            assert array.sum() == 499_999_500_000

    run(test)


def test_calls_at_once_each_get_their_own_answer():
    async def test() -> None:
        gates = [asyncio.Event() for _ in range(10)]

        async def wait(number: int) -> int:
            await gates[number].wait()
            return number

        async with linked(wait=wait) as (link, _):
            calls = [asyncio.create_task(link.call("wait", number)) for number in range(10)]
            for gate in reversed(gates):
                gate.set()
            assert await asyncio.gather(*calls) == list(range(10))

    run(test)


def test_errors_arrive_as_they_were_raised():
    async def test() -> None:
        async with linked(refuse=refuse) as (link, _):
            with pytest.raises(SwapRefused, match="the disk is full") as caught:
                await link.call("refuse")
            assert caught.value.for_now
            with pytest.raises(KeyError, match="nothing of that name"):
                await link.call("nothing of that name")

    run(test)


def test_an_error_that_cannot_be_sent_arrives_as_a_fault_with_its_words(caplog):
    async def test() -> None:
        async with linked(misfit=misfit) as (link, _):
            with pytest.raises(Fault, match="Misfit: x: is 7"):
                await link.call("misfit")

    run(test)
    assert "cannot be sent" in caplog.text


def test_a_refusal_of_inputs_arrives_with_its_problems():
    async def test() -> None:
        async with linked(unfit=unfit) as (link, _):
            with pytest.raises(DoesNotFit) as refused:
                await link.call("unfit")
            assert refused.value.problems == (Problem("x", "is 7", "a letter"),)

    run(test)


def test_who_gives_up_waiting_ends_the_work_for_it():
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with linked(work=work, echo=echo) as (link, _):
            call = asyncio.create_task(link.call("work"))
            await begun.wait()
            call.cancel()
            await ended.wait()
            assert await link.call("echo", "still here") == ("still here",)

    run(test)


def test_callers_get_an_error_when_the_other_side_goes_and_its_own_work_ends():
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with linked(work=work) as (link, other):
            call = asyncio.create_task(link.call("work"))
            await begun.wait()
            await other.close()
            with pytest.raises(LinkLost):
                await call
            await asyncio.gather(ended.wait(), link.lost())
            with pytest.raises(LinkLost, match="the process that should work is gone"):
                await link.call("work")

    run(test)


def test_half_a_frame_is_the_end_of_the_other_side():
    async def test() -> None:
        one, other = socket.socketpair()
        link = await Link.over(one, {})
        other.sendall((1000).to_bytes(8, "big") + b"half")
        other.close()
        await link.lost()
        with pytest.raises(LinkLost):
            await link.call("anything")

    run(test)
