import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from app.errors import LinkLost
from app.rpc import child as child_module
from app.rpc.child import Child, Keeper

ECHO = "tests.app.rpc.echo"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def fds() -> set[str]:
    gc.collect()  # what tests before have left
    return set(os.listdir("/proc/self/fd"))


class Harness:
    """A keeper of one echoing process, and what it was called with."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Child] = asyncio.Queue()
        self.restarts = 0
        self.refuse_to_begin = 0
        self.keeper = Keeper("echo", self._start, self._begin, lambda child: child.end(), self._restarted)

    async def _start(self) -> Child:
        return await Child.start(ECHO, (), {})

    async def _begin(self, child: Child) -> None:
        assert await child.link.call("pid") == child.process.pid
        if self.refuse_to_begin:
            self.refuse_to_begin -= 1
            raise RuntimeError("not today")
        self.begun.put_nowait(child)

    def _restarted(self, how: str) -> None:
        self.restarts += 1


def test_a_child_answers_and_ends_with_its_link():
    async def test() -> None:
        child = await Child.start(ECHO, (), {})
        assert await child.link.call("echo", 7) == (7,)
        await child.end()
        assert child.process.returncode == 0

    run(test)


def test_a_child_that_does_not_end_is_killed():
    async def test() -> None:
        child = await Child.start(ECHO, (), {})
        await child.link.call("pid")
        os.kill(child.process.pid, signal.SIGSTOP)
        await child.end(0.1)
        assert child.process.returncode == -signal.SIGKILL

    run(test)


def test_a_child_that_ends_is_replaced_and_nothing_of_it_stays_open(caplog):
    async def test() -> None:
        harness = Harness()
        await harness.keeper.start()
        child = await harness.begun.get()
        before = fds()
        for number in range(1, 4):
            os.kill(child.process.pid, signal.SIGKILL)
            await child.link.lost()
            with pytest.raises(LinkLost):
                await child.link.call("echo")
            child = await harness.begun.get()
            assert await child.link.call("echo", number) == (number,)
            assert harness.restarts == number
        assert len(fds()) <= len(before)
        await harness.keeper.close()
        assert child.process.returncode == 0

    run(test)
    assert "echo ended (killed by SIGKILL); it is started again" in caplog.text


def test_a_successor_that_cannot_begin_is_replaced_too(caplog):
    async def test() -> None:
        harness = Harness()
        await harness.keeper.start()
        first = await harness.begun.get()
        harness.refuse_to_begin = 2
        os.kill(first.process.pid, signal.SIGTERM)
        assert await (await harness.begun.get()).link.call("echo", 1) == (1,)
        assert harness.restarts == 3
        await harness.keeper.close()

    run(test)
    assert caplog.text.count("echo could not start: RuntimeError: not today") == 2


def test_a_successor_that_cannot_even_be_started_is_tried_again(caplog):
    async def test() -> None:
        harness = Harness()
        await harness.keeper.start()
        first = await harness.begun.get()
        start, failures = harness._start, [OSError("no more processes"), OSError("no more processes")]

        async def start_at_last() -> Child:
            if failures:
                raise failures.pop()
            return await start()

        harness.keeper._start = start_at_last
        os.kill(first.process.pid, signal.SIGKILL)
        assert await (await harness.begun.get()).link.call("echo", 1) == (1,)
        await harness.keeper.close()

    run(test)
    assert caplog.text.count("echo could not start: OSError: no more processes") == 2


def test_a_first_child_that_cannot_begin_is_reported():
    async def test() -> None:
        harness = Harness()
        harness.refuse_to_begin = 1
        with pytest.raises(RuntimeError, match="not today"):
            await harness.keeper.start()
        await harness.keeper.close()
        await harness.keeper.close()

    run(test)


def test_call_that_a_stopped_process_does_not_answer_ends_with_it(caplog):
    async def test() -> None:
        child = await Child.start(ECHO, (), {}, stalled_s=0.2)
        await child.link.call("pid")  # it is not watched while it starts
        os.kill(child.process.pid, signal.SIGSTOP)
        with pytest.raises(LinkLost):
            await child.call("pid")
        assert await child.process.wait() == -signal.SIGKILL

    run(test)
    assert "got nothing done for 0.2 s and is killed" in caplog.text


def test_call_over_which_a_process_works_may_take_as_long_as_it_needs(monkeypatch):
    """A stopped process that is said to work."""
    read = []
    monkeypatch.setattr(child_module, "_ticks", lambda _: read.append(0) or len(read))

    async def test() -> None:
        child = await Child.start(ECHO, (), {}, stalled_s=0.02)
        await child.call("pid")
        os.kill(child.process.pid, signal.SIGSTOP)
        call = asyncio.create_task(child.call("echo", 1))
        while len(read) < 30:
            await asyncio.sleep(0.005)
        assert not call.done()
        os.kill(child.process.pid, signal.SIGCONT)
        assert await call == (1,)
        await child.end()

    run(test)


def test_where_the_system_does_not_report_it_nothing_is_killed(monkeypatch):
    monkeypatch.setattr(child_module, "_ticks", lambda _: -1)

    async def test() -> None:
        child = await Child.start(ECHO, (), {}, stalled_s=0.01)
        await child.call("pid")
        os.kill(child.process.pid, signal.SIGSTOP)
        call = asyncio.create_task(child.call("echo", 1))
        assert not (await asyncio.wait({call}, timeout=0.1))[0]
        os.kill(child.process.pid, signal.SIGCONT)
        assert await call == (1,)
        await child.end()

    run(test)
