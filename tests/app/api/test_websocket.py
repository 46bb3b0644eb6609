"""OpenPI's WebSockets over raw sockets: what clients do to them costs nobody else anything, and ends in no bug."""

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.api import websocket
from app.artifacts.bundle import Bundle, Graph
from tests.app.api.test_connections import Client, Clients, clients, post, until
from tests.support.worker_in_process import SPEC, Running

PATH = "/v1/policies/echo/openpi"
BINARY, TEXT, CONT, CLOSE, PING, PONG = 2, 1, 0, 8, 9, 10
HANDSHAKE = {
    "Host": "here",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version": "13",
}
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of a worker."""
    return "asyncio", {"use_uvloop": True}


def handshake(path: str = PATH, **headers: str | None) -> bytes:
    """Of a client; None leaves a header out, and names have _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = [f"{name}: {value}" for name, value in (HANDSHAKE | named).items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *fields, "", ""]).encode()


def frame(payload: bytes, opcode: int = BINARY, *, last: bool = True, masked: bool = True, claims: int = -1) -> bytes:
    """`claims`: the length that it says it has."""
    size = len(payload) if claims < 0 else claims
    bit = 0x80 if masked else 0
    head = bytes((opcode | (0x80 if last else 0),))
    if size < 126:
        head += bytes((bit | size,))
    elif size < 1 << 16:
        head += struct.pack(">BH", bit | 126, size)
    else:
        head += struct.pack(">BQ", bit | 127, size)
    return head + (bytes(4) if masked else b"") + payload  # a mask of zeros changes nothing


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def array(data: Any, /, **other: Any) -> dict[bytes, Any]:
    found = np.asarray(data, np.float32)
    parts = {b"__ndarray__": True, b"data": found.tobytes(), b"dtype": found.dtype.str, b"shape": found.shape}
    return parts | {name.encode(): value for name, value in other.items()}


def observed(number: float, **other: Any) -> bytes:
    return packed({"observation": array([number, 0, 0, 0]), **other})


def action_of(message: bytes) -> float:
    parts = msgspec.msgpack.decode(message)["action"]
    assert parts[b"dtype"] == "<f4"
    return float(np.frombuffer(parts[b"data"], "<f4").item())


class Socket:
    """A WebSocket by hand."""

    def __init__(self, client: Client) -> None:
        self.client, self._reader = client, client._reader

    async def send(self, *frames: bytes) -> None:
        await self.client.send(b"".join(frames))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame."""
        first, size = await self._reader.readexactly(2)
        assert first & 0x80
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await self._reader.readexactly(size)

    async def act(self, number: float) -> float:
        await self.send(frame(observed(number)))
        opcode, message = await self.receive()
        assert opcode == BINARY, message
        return action_of(message)

    async def closed(self) -> int:
        """The code of the close that comes next."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, payload
        return int.from_bytes(payload[:2], "big")


async def opened(there: Clients, path: str = PATH, **headers: str | None) -> Socket:
    client = await there.open()
    await client.send(handshake(path, **headers))
    assert (await client._reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    found = Socket(client)
    opcode, message = await found.receive()
    assert opcode == BINARY
    assert msgspec.msgpack.decode(message)["policy"] == "echo"
    return found


@asynccontextmanager
async def sockets(**settings: Any) -> AsyncIterator[Clients]:
    async with clients(**settings) as there:
        yield there


LARGE_LISTS = [[0] * 60_000] * 40
UNFIT = {
    "no msgpack": b"\xc1",
    "nothing": b"",
    "cut": observed(1)[:-3],
    "too much": observed(1) + b"\x00",
    "an unknown name": packed({"observation": array([1, 0, 0, 0]), "wrist": 3}),
    "another endpoint": packed({"endpoint": "train"}),
    "a session that is none": packed({"observation": array([1, 0, 0, 0]), "session_id": 3}),
    "a seed that is none": packed({"observation": array([1, 0, 0, 0]), "seed": -1}),
    "a seed for a policy that does not sample": packed({"observation": array([1, 0, 0, 0]), "seed": 1}),
    "objects": packed({"observation": array([1, 0, 0, 0], dtype="|O")}),
    "records": packed({"observation": array([1, 0, 0, 0], dtype="|V16")}),
    "complex": packed({"observation": array([1, 0, 0, 0], dtype="<c16")}),
    "times": packed({"observation": array([1, 0, 0, 0], dtype="<M8[ns]")}),
    "a list of dtypes": packed({"observation": array([1, 0, 0, 0], dtype=["f4"])}),
    "fields": packed({"observation": array([1, 0, 0, 0], dtype="f4,f4")}),
    "words of no length": packed({"observation": array([], dtype="<U0", shape=[10**9])}),
    "words that are none": packed({"observation": array([], dtype="<U1", data=b"\xff" * 16, shape=[4])}),
    "less data than the shape": packed({"observation": array([1, 0], shape=[4])}),
    "more data than the shape": packed({"observation": array([1] * 9, shape=[4])}),
    "a negative shape": packed({"observation": array([1, 0, 0, 0], shape=[-4])}),
    "a shape beyond all memory": packed({"observation": array([], shape=[0, 2**62, 2**62])}),
    "a shape that is none": packed({"observation": array([1, 0, 0, 0], shape="4")}),
    "a long shape": packed({"observation": array([1, 0, 0, 0], shape=[1] * 5000)}),
    "data that is a list": packed({"observation": array([1, 0, 0, 0], data=[1] * 5000)}),
    "an array without data": packed({"observation": {b"__ndarray__": True, b"dtype": "<f4", b"shape": [4]}}),
    "another map of bytes": packed({"observation": {b"data": b""}}),
    "a scalar without dtype": packed({"observation": {b"__npgeneric__": True, b"data": 1}}),
    "another shape": packed({"observation": array([1, 0])}),
    "a list in an array's place": packed({"observation": LARGE_LISTS}),
    "many names": packed({str(number): 0 for number in range(5000)}),
    "nested deep": b"\x91" * 5000 + b"\x00",
    "maps nested deep": b"\x81\xa1a" * 5000 + b"\x00",
    "an extension": packed({"observation": msgspec.msgpack.Ext(5, b"x" * 40)}),
    "not finite": packed({"observation": array([np.nan, 0, 0, 0])}),
    "names of numbers": b"\x81\x01\x02",
}


async def test_what_does_not_fit_is_refused_by_a_text_and_the_connection_goes_on() -> None:
    async with sockets() as there:
        bad, neighbour = await opened(there), await opened(there)
        for number, (name, message) in enumerate(UNFIT.items()):
            await bad.send(frame(message))
            opcode, text = await asyncio.wait_for(bad.receive(), 30)
            assert opcode == TEXT, name
            assert b"bug" not in text, (name, text)
            assert b"Traceback" not in text
            assert await neighbour.act(number) == number
            assert await bad.act(-number) == -number, name
        await bad.send(frame(b"a text", TEXT))
        assert (await bad.receive())[0] == TEXT
        await bad.send(frame(packed({"observation": array([1, 0, 0, 0]), "wrist": 3})))
        _, text = await bad.receive()
        expected = b"one of observation, options, endpoint, session_id, seed, prompt"
        assert text == b"wrist: is no field of this policy; expected " + expected


async def test_messages_come_in_any_form_that_the_protocol_has() -> None:
    async with sockets() as there:
        one = await opened(there)
        whole = {"observation": array([5, 0, 0, 0]), "prompt": "pick it up"}
        other_order = {"observation": array(np.array([5, 0, 0, 0], ">f4").tolist(), dtype=">f4")}
        other_order["observation"][b"data"] = np.array([5, 0, 0, 0], ">f4").tobytes()
        scalar = {b"__npgeneric__": True, b"data": 5.0, b"dtype": "<f8"}
        forms = [
            whole, {"0/observation": array([5, 0, 0, 0])}, array([5, 0, 0, 0]), [5, 0, 0, 0], other_order,
            {"observation": [scalar, 0, 0, 0]}, {"observation": array([5, 0, 0, 0]), "endpoint": "infer"},
            {"observation": array([5, 0, 0, 0]), "reward": 1.0, "options": {"timeout_ms": 60_000}},
        ]  # fmt: skip
        for form in forms:
            await one.send(frame(packed(form)))
            opcode, message = await one.receive()
            assert opcode == BINARY, (form, message)
            assert action_of(message) == 5
        message = observed(5)
        pieces = [
            frame(b"", last=False),
            *[frame(message[at : at + 1], CONT, last=False) for at in range(len(message))],
        ]
        await one.send(*pieces[:9], frame(b"are you there", PING), *pieces[9:], frame(b"", CONT))
        assert await one.receive() == (PONG, b"are you there")
        assert action_of((await one.receive())[1]) == 5
        await one.send(*[frame(observed(number)) for number in range(300)])  # sent ahead
        assert [action_of((await one.receive())[1]) for _ in range(300)] == list(range(300))


WRONG = {
    "unmasked": (frame(observed(1), masked=False), 1002),
    "reserved bits": (b"\xf2" + frame(b"")[1:], 1002),
    "a reserved opcode": (frame(b"", 3), 1002),
    "a continuation of nothing": (frame(b"", CONT), 1002),
    "a message inside another": (frame(b"", last=False) + frame(b""), 1002),
    "a long ping": (frame(b"x" * 126, PING), 1002),
    "a ping in pieces": (frame(b"", PING, last=False), 1002),
    "a close of one byte": (frame(b"x", CLOSE), 1002),
    "a huge length": (frame(b"", claims=2**62), 1009),
    "an impossible length": (frame(b"", claims=2**63 + 5), 1009),
    "larger than the limit": (frame(b"", claims=2**27), 1009),
    "http": (post("/action"), 1002),
    "a close": (frame(struct.pack(">H", 1000), CLOSE), 1000),
}


@pytest.mark.parametrize("name", WRONG)
async def test_frames_that_are_none_close_the_connection_with_a_code(name: str) -> None:
    wrong, code = WRONG[name]
    async with sockets() as there:
        bad, neighbour = await opened(there), await opened(there)
        await bad.send(wrong + b"\x00" * 100)
        assert await asyncio.wait_for(bad.closed(), 30) == code
        assert await bad.client.rest() == b""
        assert await neighbour.act(3) == 3
        await neighbour.client.close()
        await bad.client.close()
        await until(lambda: not there.worker.connections)


async def test_fragments_are_a_message_as_large_as_the_limit_and_no_larger() -> None:
    async with sockets(body_limit_bytes=100_000) as there:
        bad = await opened(there)
        await bad.send(*[frame(b"x" * 30_000, CONT if number else BINARY, last=False) for number in range(4)])
        assert await bad.closed() == 1009
        await there.works()


async def test_while_a_flood_of_short_frames_is_read_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_TURN_S", 0)
    async with sockets() as there:
        bad, neighbour = await opened(there), await opened(there)
        await bad.send(frame(b"\xc1", last=False), frame(b"x", CONT, last=False) * 25_000, frame(b"", CONT))
        refusal = asyncio.create_task(bad.receive())
        assert await neighbour.act(1) == 1
        assert not refusal.done()
        assert (await refusal)[0] == TEXT
        assert await bad.act(2) == 2


@pytest.mark.parametrize("flood", [frame(b"here", PING), frame(b"", PONG), frame(b"", CONT, last=False)])
async def test_frames_that_bring_nothing_end_the_connection_where_they_are_too_many(flood: bytes) -> None:
    async with sockets() as there:
        bad = await opened(there)
        begin = frame(b"", last=False)
        await bad.send(begin, flood * 1000, frame(observed(1), CONT))  # a message has come: they are counted anew
        while (answer := await bad.receive())[0] == PONG:
            pass
        assert action_of(answer[1]) == 1
        await bad.send(begin, flood * 3000)
        while (answer := await bad.receive())[0] == PONG:
            pass
        assert answer[0] == CLOSE
        assert (int.from_bytes(answer[1][:2], "big"), b"bring nothing" in answer[1]) == (1008, True)
        await there.works()


PIECES = [
    b"", b"\xc1", b"\xc0", b"\xc3", b"\x00", b"\xff", b"\x7f", b"\xcb" + b"\xff" * 8, b"\xd3\x80" + bytes(7),
    b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\x91" * 40,
    b"\x81\xa1a" * 40, b"\xc7\x01\x05x", b"\x80", b"\x90", b"\xa0", b"\xc4\x00", b"\xa3<f8", b"\xa3>f4", b"\xa3<U9",
    b"\xa3|S0", b"\xa3<M8", b"\xa2|O", b"\x91\x04", b"\x92\x04\x01", b"\x91\xcf" + b"\xff" * 8, b"\x91\xff",
    b"\xc4\x0d__npgeneric__", b"\xa8endpoint\xa5reset", b"\xa7options\x81\xa4seed\x01",
]  # fmt: skip
GOOD = [
    observed(1),
    packed(array([1, 0, 0, 0])),
    packed({"observation": [1.0, 0, 0, 0], "options": {"timeout_ms": 60_000}}),
    packed({"observation": array([1, 0, 0, 0]), "reward": array(0.5), "session_id": "a", "prompt": "x"}),
    packed({"endpoint": "reset", "seed": 3}),
]


def mutated(message: bytes, draw: random.Random) -> bytes:
    changed = bytearray(message)
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
        at = draw.randrange(len(changed) + 1)
        changed[at : at + draw.choice([0, 1, 1, 4])] = draw.choice([*PIECES, draw.randbytes(draw.randint(1, 3))])
    return bytes(changed)


async def test_whatever_comes_in_a_message_is_answered_or_refused(full: bool) -> None:
    draw, seen = random.Random(18), {BINARY: 0, TEXT: 0}
    async with sockets(non_finite="reject") as there:
        bad, neighbour = await opened(there), await opened(there)
        for number in range(50_000 if full else 2000):
            message = mutated(draw.choice(GOOD), draw)
            await bad.send(frame(message))
            opcode, answer = await asyncio.wait_for(bad.receive(), 30)
            seen[opcode] += 1
            assert opcode == BINARY or not any(word in answer for word in (b" bug", b"Traceback")), (message, answer)
            if number % 100 == 0:
                assert await neighbour.act(number) == number
        assert min(seen.values()) > 100, seen


async def test_whatever_comes_as_frames_is_answered_or_closes_that_connection(full: bool) -> None:
    draw, codes = random.Random(19), set()
    async with sockets() as there:
        neighbour = await opened(there)
        for number in range(5000 if full else 150):
            bad = await opened(there)
            whole = b"".join(frame(observed(each), draw.choice([BINARY] * 6 + [TEXT, PING])) for each in range(3))
            sent = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(sent))
                sent[at : at + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
            await bad.send(bytes(sent), frame(struct.pack(">H", 1000), CLOSE))
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                while True:  # one that is cut short waits for the rest
                    opcode, answer = await asyncio.wait_for(bad.receive(), 0.05)
                    assert b" bug" not in answer, (bytes(sent), answer)
                    if opcode == CLOSE:
                        codes.add(int.from_bytes(answer[:2], "big"))
            bad.client.abort()
            assert await neighbour.act(number) == number
        await until(lambda: len(there.worker.connections) == 1)
        assert {1000, 1002} <= codes <= {1000, 1002, 1007, 1009}


HANDSHAKES: dict[str, tuple[dict[str, Any], int]] = {
    "no key": ({"Sec_WebSocket_Key": None}, 400),
    "a short key": ({"Sec_WebSocket_Key": "AAAA"}, 400),
    "another version": ({"Sec_WebSocket_Version": "8"}, 400),
    "no version": ({"Sec_WebSocket_Version": None}, 400),
    "no upgrade": ({"Upgrade": None, "Connection": "close"}, 400),
    "another protocol": ({"Upgrade": "h2c"}, 400),
    "a body": ({"Content_Length": "3"}, 400),
    "another policy": ({"path": "/v1/policies/none/openpi"}, 404),
    "the root, which no setting names": ({"path": "/"}, 404),
    "a path below": ({"path": PATH + "/more"}, 404),
    "weights that are none": ({"path": PATH + "?weights=newest"}, 400),
    "a page of another origin": ({"Origin": "http://elsewhere"}, 403),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_a_handshake_that_is_none_is_refused_at_once(name: str) -> None:
    how, status = HANDSHAKES[name]
    async with sockets() as there:
        client = await there.open()
        await client.send(handshake(**how))
        assert (await client.answer()).status == status
        await there.works()


async def test_the_token_is_an_api_key_or_a_bearer_token() -> None:
    async with sockets(data_token="secret", openpi="echo") as there:
        for path in (PATH, "/"):
            for header in (None, "Api-Key wrong", "Bearer wrong", "Basic secret", "Api-Key", "secret"):
                client = await there.open()
                await client.send(handshake(path, Authorization=header))
                answer = await asyncio.wait_for(client.answer(), 30)
                assert answer.status == 401
                assert json.loads(answer.body)["title"] == "Unauthorized"
            for header in ("Api-Key secret", "api-key secret", "Bearer secret"):
                assert await (await opened(there, path, Authorization=header)).act(2) == 2


async def test_a_browser_may_ask_from_an_origin_that_is_named() -> None:
    async with sockets(cors_origins="http://here, http://there") as there:
        assert await (await opened(there, Origin="http://there")).act(2) == 2


async def swap(there: Clients, train_step: int) -> None:
    """Serves other weights, which differ in their name alone."""
    worker = there.worker.worker
    graph = Graph(Path("nowhere"), "graph", SPEC, worker._service.policy("echo").serving, plain=False)
    bundle = Bundle(Path("nowhere"), "graph", f"digest {train_step}", train_step, "echo", "", {})
    await worker.prepare("echo", graph, bundle)
    await worker.activate("echo", str(train_step), bundle.digest)


async def steps(one: Socket, *messages: bytes) -> list[int | bytes]:
    """The train steps of the answers, or the texts of refusals."""
    found: list[int | bytes] = []
    for message in messages:
        await one.send(frame(message))
        opcode, answer = await one.receive()
        found.append(msgspec.msgpack.decode(answer)["train_step"] if opcode == BINARY else answer)
    return found


async def test_an_episode_keeps_its_weights_where_it_asks_for_that() -> None:
    step, reset = observed(1), packed({"endpoint": "reset"})
    async with sockets(retained_versions=1) as there:
        first = there.worker.worker._service.policy("echo").versions.active.version.train_step
        keeps, follows = await opened(there, PATH + "?weights=episode"), await opened(there, PATH + "?weights=latest")
        assert await steps(keeps, step) == await steps(follows, step) == [first]
        await swap(there, 20)
        for _ in range(3):  # what nobody keeps would be forgotten
            await there.worker.worker._sessions.tidy()
        assert await steps(keeps, step, step) == [first, first]
        assert await steps(follows, step) == [20]
        assert await steps(keeps, reset, step, step) == [20, 20, 20]
        await there.worker.worker._sessions.tidy()
        await there.worker.worker._sessions.tidy()
        assert not there.worker.worker._service.policy("echo").versions.retained
        await swap(there, 30)
        late = await opened(there, PATH + "?weights=episode")
        assert await steps(late, step) == [30]
        await swap(there, 40)  # one version more than may be retained
        assert await steps(keeps, step) == [
            b"the weights that the episode started with are not kept here: reset it, or connect anew"
        ]
        assert await steps(late, step) == [30]
        assert await steps(keeps, reset, step) == [40, 40]
        late.client.abort()
        await until(lambda: len(there.worker.connections) == 2)


async def test_a_first_step_that_is_refused_changes_nothing_of_what_an_episode_keeps() -> None:
    late = {"options": {"min_train_step": 999, "timeout_ms": 1}}  # weights that do not come in time
    step = observed(1)
    async with sockets(retained_versions=1) as there:
        versions, sessions = there.worker.worker._service.policy("echo").versions, there.worker.worker._sessions
        first = versions.active.version.train_step
        keeps = await opened(there, PATH + "?weights=episode")
        assert await steps(keeps, step) == [first]
        for begins in ({"session_id": "another"}, {"session_id": "a third"}):
            (refusal,) = await steps(keeps, observed(1, **begins, **late))
            assert isinstance(refusal, bytes)
        await swap(there, 20)
        assert await steps(keeps, step) == [first]
        never = await opened(there, PATH + "?weights=episode")
        assert isinstance((await steps(never, observed(1, **late)))[0], bytes)
        keeps.client.abort()
        await until(lambda: len(there.worker.connections) == 1)
        for _ in range(3):
            await sessions.tidy()
        await swap(there, 30)
        for _ in range(3):
            await sessions.tidy()
        assert not versions.retained  # one that has no first step needs none
        assert await steps(never, step) == [30]


async def test_healthz_answers() -> None:
    async with sockets() as there:
        client = await there.open()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_messages_before_the_end_of_the_handshake_are_answered() -> None:
    async with sockets() as there:
        client = await there.open()
        await client.send(post("/action") + handshake() + frame(observed(4)))
        assert (await client.answer()).status == 200
        assert b"101 Switching" in client._rest or await client._reader.readuntil(b"\r\n\r\n")


async def test_a_stop_answers_what_was_accepted_and_says_that_it_goes_away() -> None:
    async with sockets() as there:
        idle, asking = await opened(there), await opened(there)
        await asking.send(*[frame(observed(number)) for number in range(40)])
        stop = asyncio.create_task(there.worker.worker._http.stop())
        assert [action_of((await asking.receive())[1]) for _ in range(40)] == list(range(40))
        assert await asking.closed() == 1001
        assert await idle.closed() == 1001
        await idle.client.close()
        await asking.client.close()
        await stop


async def test_a_client_that_stops_in_a_message_is_closed() -> None:
    async with sockets(client_timeout_s=1) as there:
        bad = await opened(there)
        await bad.send(frame(observed(1))[:20])
        assert await bad.closed() == 1008
        assert not there.worker.unfinished_bytes


async def test_a_silent_client_is_asked_and_closed_where_it_does_not_answer() -> None:
    async with sockets(keep_alive_s=1) as there:
        silent, there_still = await opened(there), await opened(there)
        for _ in range(3):
            assert (await there_still.receive())[0] == PING
            await there_still.send(frame(b"", PONG))
        assert (await silent.receive())[0] == PING
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await silent.receive()
        assert await there_still.act(3) == 3


async def test_a_connection_without_messages_is_closed_as_a_session_is_ended() -> None:
    async with sockets(sessions_idle_s=1, client_timeout_s=1) as there:
        assert await (await opened(there)).closed() == 1001


async def test_a_client_that_does_not_read_is_dropped_and_costs_the_others_nothing() -> None:
    async with sockets(client_timeout_s=1) as there:
        slow, neighbour = await opened(there), await opened(there)
        many = packed({"observation": array(np.zeros((20_000, 4)))})
        sending = asyncio.create_task(slow.send(*[frame(many)] * 200))
        for number in range(50):
            assert await neighbour.act(number) == number
        await until(lambda: len(there.worker.connections) == 1)
        assert await neighbour.act(1) == 1
        slow.client.abort()
        await asyncio.wait({sending})
        sending.exception()


async def test_a_dropped_connection_gives_up_its_message() -> None:
    async with sockets() as there:
        one, before = await opened(there), _counted(there.worker, 499)
        waits = {"observation": array([1, 0, 0, 0]), "options": {"min_train_step": 1000, "timeout_ms": 60_000}}
        await one.send(frame(packed(waits)), frame(b"still?", PING))
        assert await one.receive() == (PONG, b"still?")  # while the message waits
        one.client.abort()
        await until(lambda: not there.worker.connections)
        assert _counted(there.worker, 499) == before + 1


def _counted(worker: Running, status: int) -> float:
    worker.worker._metrics.flush()
    lines = worker.worker._metrics.text().decode().splitlines()
    found = [line for line in lines if "answers_total" in line and 'route="openpi"' in line and f'"{status}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)
