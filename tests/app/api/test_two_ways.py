"""The fast path and the framework, sent the same: the same answers, in order, none lost, none done twice."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, given, settings

from app.wire import msgpack_body
from tests.support.requests import FAST, FRAMEWORK, Answer, Sequence, next_answer, sequences
from tests.support.worker_in_process import Running, running

WAYS = (FAST, FRAMEWORK)


class Client:
    """Plays sequences against one worker, all on one event loop."""

    def __init__(self, runner: asyncio.Runner, worker: Running) -> None:
        self._runner, self._worker, self._runs = runner, worker, 0

    def play(self, sequence: Sequence) -> None:
        """Sends it both ways, and compares what comes with one another and with what has to come."""
        one, other = (self._runner.run(self._played(sequence, way)) for way in WAYS)
        assert one == other

    async def _played(self, sequence: Sequence, way: str) -> list[Answer]:
        worker = self._worker
        worker.engine.seen.clear()
        worker.control.calls.clear()
        await self._begin_session()
        worker.engine.seen.clear()
        async with asyncio.timeout(60):
            answers = await self._exchange(sequence, way)
            while worker.connections:  # each is closed once its client has gone
                await asyncio.sleep(0)
        assert [answer.status for answer in answers] == sequence.statuses
        self._check_done(sequence, answers)
        return answers

    async def _begin_session(self) -> None:
        self._runs += 1
        body = b'{"id": "one", "run_id": "%d", "observation": [0, 0, 0, 0]}' % self._runs
        reader, writer = await asyncio.open_connection("127.0.0.1", self._worker.port)
        writer.write(
            b"POST /sessions HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert b" 201 " in await reader.read()
        writer.close()

    async def _exchange(self, sequence: Sequence, way: str) -> list[Answer]:
        async with connected(self._worker.port) as (reader, writer):
            with contextlib.suppress(ConnectionError):
                for part in sequence.parts(way):
                    writer.write(part)
                    await writer.drain()
                    for _ in range(3):  # so that the server reads this part before the next one comes
                        await asyncio.sleep(0)
                if sequence.ends_at_once:
                    writer.write_eof()
            return await _answers(sequence, reader, writer)

    def _check_done(self, sequence: Sequence, answers: list[Answer]) -> None:
        acted = [request.number for request in sequence.answered if request.does == "act"]
        assert self._worker.engine.seen == acted
        loaded = [("reload", "echo", str(request.number)) for request in sequence.answered if request.does == "reload"]
        assert [call for call in self._worker.control.calls if call[0] == "reload"] == loaded
        step = 0
        for request, answer in zip(sequence.answered, answers, strict=False):
            if request.does == "reload":
                assert json.loads(answer.body)["version"] == str(request.number)
            if request.does != "act":
                continue
            decode: Any = msgpack_body.decode if request.kind == "packed" else json.loads
            came = decode(answer.body)
            assert float(came["action"]) == request.number
            if request.kind == "step":
                step += 1
                assert came["step"] == step


async def _answers(sequence: Sequence, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[Answer]:
    """All that come; when those are there that have to come, the client ends its side, and nothing more may follow."""
    methods = [request.what.method for request in sequence.answered] + [""]
    answers: list[Answer] = []
    data = b""
    while True:
        found = next_answer(data, methods[min(len(answers), len(methods) - 1)] == "HEAD")
        if found is not None:
            answers.append(found[0])
            data = found[1]
            continue
        if len(answers) == len(sequence.statuses):
            with contextlib.suppress(OSError):
                writer.write_eof()
        more = await reader.read(1 << 16)
        if not more:
            break
        data += more
    assert not data
    return answers


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        contextlib.ExitStack() as stack,
    ):
        opened = running(monkeypatch)
        worker = runner.run(opened.__aenter__())
        stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
        yield Client(runner, worker)
        assert not worker.connections


def test_the_two_ways_answer_alike_in_order_and_once(client: Client, full: bool) -> None:
    played = 0

    @settings(
        max_examples=20_000 if full else 600,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(sequences)
    def test(sequence: Sequence) -> None:
        nonlocal played
        played += 1
        client.play(sequence)

    test()
    print(f"{played} sequences")
