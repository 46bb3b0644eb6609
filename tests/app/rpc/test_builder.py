"""Calls to a builder process that is killed, or crashes, over them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.artifacts.bundle import Graph
from app.control.handlers import manager_calls
from app.control.states import Version
from app.errors import DeadlinePassed, LinkLost, SwapRefused
from app.rpc.builder import BuilderCalls, RemoteBuilder
from app.rpc.control import RemoteManager
from saver.artifact import Noise, PolicySpec, ServingInfo

GRAPH = Graph(
    Path("/graph"), "graph", PolicySpec((), (), (), (), (), None, True, {}), ServingInfo({}, {}, Noise(0, 0), {}), False
)


class Process:
    """A builder process; `ends_with` is the signal that ends it over the next call, 0 for none."""

    def __init__(self, ends_with: int = 0) -> None:
        self.ends_with = ends_with
        self.calls: list[tuple[Any, ...]] = []
        self.link = self.process = self

    async def call(self, *args: Any) -> str:
        self.calls.append(args)
        await asyncio.sleep(0)
        if self.ends_with:
            raise LinkLost("gone")
        return "answer"

    async def wait(self) -> int:
        return -self.ends_with


class Harness:
    """The calls, and the processes that come one after the other."""

    def __init__(self, *endings: int) -> None:
        self.calls = BuilderCalls()
        self.processes = [Process(ending) for ending in endings]
        self.keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        for process in self.processes:
            self.calls.use(process)  # type: ignore[arg-type]
            while process.ends_with == 0 or not process.calls:
                await asyncio.sleep(0)
            while self.calls._there.is_set():
                await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def test_a_call_over_which_a_process_was_killed_is_made_again():
    async def test() -> None:
        harness = Harness(signal.SIGKILL, 0)
        assert await harness.calls.call("check", 7) == "answer"
        assert [process.calls for process in harness.processes] == [[("check", 7)]] * 2

    run(test)


def test_a_call_over_which_two_were_killed_is_refused_for_now():
    async def test() -> None:
        harness = Harness(signal.SIGKILL, signal.SIGKILL, 0)
        with pytest.raises(
            SwapRefused, match="the builder process was killed while checking this checkpoint"
        ) as caught:
            await harness.calls.call("check", 7)
        assert caught.value.for_now
        assert await harness.calls.call("check", 8) == "answer"

    run(test)


def test_a_call_that_crashes_the_process_is_refused_and_not_made_again():
    async def test() -> None:
        harness = Harness(signal.SIGSEGV, 0)
        with pytest.raises(SwapRefused, match="the builder process crashed while checking this checkpoint") as caught:
            await harness.calls.call("check", 7)
        assert not caught.value.for_now
        assert await harness.calls.call("check", 8) == "answer"

    run(test)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda builder: builder.open(Path("/p"), Path("/g")), "opening this export"),
        (lambda builder: builder.prepare(GRAPH, None, "a", Path("/there"), []), "preparing this version"),
        (lambda builder: builder.check(GRAPH, Path("/c")), "checking this checkpoint"),
        (lambda builder: builder.needs_own_graph(GRAPH, Path("/c")), "comparing this export with the one that serves"),
    ],
)
@pytest.mark.parametrize(("ending", "how"), [(signal.SIGKILL, "was killed"), (signal.SIGSEGV, "crashed")])
def test_a_refusal_says_how_the_process_ended_and_during_which_call(call, says, ending, how):
    async def test() -> None:
        builder = RemoteBuilder("p", Harness(ending, ending).calls)
        with pytest.raises(SwapRefused) as caught:
            await call(builder)
        assert str(caught.value) == f"the builder process {how} while {says}"

    run(test)


def test_those_that_wait_are_not_to_blame_for_the_one_that_crashes():
    async def test() -> None:
        harness = Harness(signal.SIGSEGV, 0)
        bad, good, other = await asyncio.gather(
            *(harness.calls.call("check", number) for number in (7, 8, 9)), return_exceptions=True
        )
        assert isinstance(bad, SwapRefused)
        assert (good, other) == ("answer", "answer")

    run(test)


def test_what_crashes_the_process_is_prepared_without_compiling_from_then_on():
    async def test() -> None:
        harness = Harness(signal.SIGABRT, 0)
        builder = RemoteBuilder("p", harness.calls)
        for digest in ("a", "b"):
            assert await builder.prepare(GRAPH, None, digest, Path("/there"), []) == "answer"
        compiled = [call[-1] for process in harness.processes for call in process.calls]
        assert compiled == [True, False, False]

    run(test)


def test_a_call_that_waits_for_a_process_is_refused_when_none_will_come():
    async def test() -> None:
        calls = BuilderCalls()
        waiting = asyncio.create_task(calls.call("check", 7))
        await asyncio.sleep(0)
        calls.close()
        with pytest.raises(SwapRefused, match="the server is stopping"):
            await waiting

    run(test)


@pytest.mark.parametrize("call", ["reload", "reload_export", "rollback"])
def test_a_swap_that_takes_long_is_said_to_go_on(call):
    async def test() -> None:
        class Slow:
            async def call(self, *_: Any) -> None:
                await asyncio.Event().wait()

        manager = RemoteManager("p", Slow(), 0.01)  # type: ignore[arg-type]
        with pytest.raises(DeadlinePassed, match=r"no end after 0.01 s; what was asked goes on, .*/p/versions shows"):
            await getattr(manager, call)(*(["a"] if call == "reload" else []))

    run(test)


def test_of_thousands_of_versions_the_latest_and_the_active_one_are_listed():
    class Many:
        pinned, active = None, Version("active", "a", 0, seen_at=0)
        export = SimpleNamespace(reason="")

        def stale(self) -> bool:
            return False

        def versions(self) -> list[Version]:
            return [*(Version(str(step), str(step), step, seen_at=step) for step in range(20_000, 0, -1)), self.active]

    async def test() -> None:
        status = manager_calls({"p": Many()}, {})["status"]  # type: ignore[dict-item]
        for limit, offset, names in (
            (2, 0, ["20000", "19999", "active"]),
            (2, 19_998, ["2", "1", "active"]),
            (2, 19_999, ["1", "active"]),
            (2, 30_000, ["active"]),
        ):
            listed = await status("p", limit, offset)
            assert [version["version"] for version in listed["versions"]] == names
            assert listed["versions_total"] == 20_001

    run(test)
