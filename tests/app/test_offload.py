"""What takes long runs in a thread, no more than fits at once, and nothing of it stays."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.errors import DoesNotFit, Overloaded, Problem
from app.offload import Offload, let_others_run
from app.wire import json_body, large_json, large_msgpack
from app.wire.codecs import JSON, MSGPACK, Codec
from app.wire.limits import FEW_NUMBERS
from app.wire.long_lists import PIECE_BYTES, read_long
from saver.artifact import Leaf

pytestmark = pytest.mark.anyio
LARGE = {JSON: large_json.decode, MSGPACK: large_msgpack.decode}


class Body(bytearray):
    """Bytes of which one can know whether they are still there."""


async def test_a_call_runs_in_another_thread() -> None:
    offload = Offload()
    assert await offload.run(1, threading.get_ident) != threading.get_ident()
    offload.close()


async def test_beyond_the_bound_it_is_refused_and_later_taken_again() -> None:
    offload, go = Offload(most_bytes=10), threading.Event()
    first = asyncio.create_task(offload.run(8, go.wait))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await offload.run(8, int)
    assert await asyncio.wait_for(asyncio.gather(first, _soon(go)), 30)
    while offload._waiting_bytes:
        await asyncio.sleep(0)
    assert await offload.run(8, int) == 0
    assert await offload.run(80, int) == 0  # one alone is always taken
    offload.close()


async def _refusal(offload: Offload, call: Callable[[Body], None], body: Body) -> str:
    try:
        await offload.run(len(body), call, body)
    except DoesNotFit as error:
        return error.problems[0].problem
    return ""


async def _soon(event: threading.Event) -> None:
    event.set()


def test_what_was_refused_is_gone_at_once() -> None:
    def refuse(body: Body) -> None:
        raise DoesNotFit([Problem("observation", str(len(body)), "something else")])

    async def test() -> weakref.ref[Body]:
        offload, body = Offload(), Body(100)
        assert await _refusal(offload, refuse, body) == "100"
        await offload.run(0, int)  # the thread has forgotten its last call
        gone = weakref.ref(body)
        offload.close()
        return gone

    gc.disable()
    try:
        gone = asyncio.run(test())
        assert gone() is None
    finally:
        gc.enable()


async def test_a_waiter_that_gives_up_leaves_no_room_taken() -> None:
    offload, go = Offload(most_bytes=10), threading.Event()
    running = asyncio.create_task(offload.run(5, go.wait))
    waiting = asyncio.create_task(offload.run(5, int))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    go.set()
    await running
    while offload._waiting_bytes:
        await asyncio.sleep(0)
    offload.close()


def test_a_thread_lets_others_run_once_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = [100.0], list[float]()
    monkeypatch.setattr("app.offload.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("app.offload.time.sleep", rests.append)

    def work() -> None:
        for _ in range(10):
            now[0] += 0.0004
            let_others_run()

    _in_a_thread(work)
    assert len(rests) == 1 + 3  # at once, and after every three of 0.4 ms


def test_the_event_loop_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.offload.time.sleep", lambda _: pytest.fail("the event loop rests"))
    let_others_run()


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_others_run_while_a_long_body_is_read(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = list[float]()
    monkeypatch.setattr("app.offload._TURN_S", 0.0)
    monkeypatch.setattr("app.offload.time.sleep", rests.append)
    leaf = Leaf("observation", "float32", (4,))
    body = codec.encode({"observation": np.random.default_rng(0).random((20_000, 4)).tolist()})
    read = LARGE[codec]

    _in_a_thread(lambda: read_long(read(body, 9)["observation"], leaf, "observation", 20_000))
    assert len(rests) >= len(body) // (2 * PIECE_BYTES)


def test_others_run_while_a_long_answer_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    rests = list[float]()
    monkeypatch.setattr("app.offload._TURN_S", 0.0)
    monkeypatch.setattr("app.offload.time.sleep", rests.append)
    array = np.zeros((1_000_000, 1), np.float32)

    _in_a_thread(lambda: json_body.encode({"action": array}))
    assert len(rests) >= array.size // FEW_NUMBERS


def _in_a_thread(call: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()
