"""Records that somebody else has written: none is used, none stays in the way, and nobody else notices."""

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import Overloaded
from app.sessions.redis_store import PREFIX, RedisStore
from app.sessions.store import Key
from tests.support.redis_server import redis_running
from tests.support.session_records import LIMITS, record

pytestmark = pytest.mark.anyio

KEY = Key("p", "a")
GOOD = record().to_bytes()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_running() as url:
        yield url


def with_array(*array: Any) -> bytes:
    """A good record whose state is this array: dtype, shape, data."""
    plain = msgspec.msgpack.decode(GOOD)
    plain["state"] = {"1/0": list(array)}
    return msgspec.msgpack.encode(plain)


def with_field(name: str, value: Any) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(GOOD) | {name: value})


BAD = {
    "empty": b"",
    "text": b"no record",
    "truncated": GOOD[: len(GOOD) // 2],
    "continued": GOOD + b"\0",
    "a pickle": pickle.dumps({"state": np.zeros(2)}),
    "a list": msgspec.msgpack.encode([1, 2, 3]),
    "nested deeply": b"\x91" * 90_000 + b"\xc0",
    "an unknown field nested deeply": b"\x81\xa5other" + b"\x91" * 90_000 + b"\xc0",
    "of a later version": msgspec.msgpack.encode({"format": 2, "record": {}}),
    "without a run": with_field("run", None),
    "a step that is none": with_field("step", "1"),
    "a dtype that is code": with_array("(", [1], b"\0"),
    "a dtype with fields": with_array("i4,i4", [1], bytes(8)),
    "a dtype of objects": with_array("|O", [1], bytes(8)),
    "a dtype of nothing": with_array("|V0", [1], b""),
    "a negative size": with_array("<f4", [-1], bytes(8)),
    "sizes beyond the data": with_array("<f4", [3], bytes(8)),
    "sizes beyond everything": with_array("<f4", [2**31, 2**31, 2**31, 0], b""),
    "a size beyond 64 bits": with_array("<f4", [2**64 - 1, 0], b""),
    "too many sizes": with_array("<f4", [1] * 40, bytes(4)),
    "no array": with_field("state", {"1/0": {"dtype": "<f4"}}),
    "huge": b"\xc6\x00\x02\x00\x00" + bytes(2**17),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_record_that_cannot_be_read_is_none_and_a_session_can_begin_in_its_place(url: str, data: bytes) -> None:
    found = []

    async with asyncio.timeout(10):
        store = RedisStore(url, LIMITS)
        await store._redis.flushdb()
        store.check_by(lambda key, read, reason: found.append((key, read)) or reason)
        await store._redis.hset(f"{PREFIX}record:p/a", mapping={"token": "b:0", "data": data, "retained": ""})
        assert await store.get(KEY) is None
        assert not await store._redis.exists(f"{PREFIX}record:p/a")
        assert await store.begin(KEY, None, record())
        assert await store.get(KEY) is not None
        await store.close()
    assert found[0] == (KEY, None)


@pytest.mark.parametrize("kind", ["string", "list", "without data", "token of another"])
async def test_what_is_no_record_at_all_is_none_too(url: str, kind: str) -> None:
    async with asyncio.timeout(10):
        store = RedisStore(url, LIMITS)
        await store._redis.flushdb()
        name = f"{PREFIX}record:p/a"
        if kind == "string":
            await store._redis.set(name, b"x")
        elif kind == "list":
            await store._redis.rpush(name, b"x")
        elif kind == "without data":
            await store._redis.hset(name, mapping={"token": "b:0"})
        else:
            await store._redis.hset(name, mapping={"token": b"\xff", "data": GOOD})
        assert await store.get(KEY) is None
        assert await store.end(KEY, None) is None
        assert await store.begin(KEY, None, record())
        await store.close()


async def test_good_record_that_has_come_in_the_place_of_a_bad_one_stays(url: str) -> None:
    async with asyncio.timeout(10):
        store = RedisStore(url, LIMITS)
        await store._redis.flushdb()
        assert await store.begin(KEY, None, record())
        await store._run("drop", KEY, b"what was there before")
        assert await store.get(KEY) is not None
        await store.close()


async def test_record_larger_than_all_may_be_is_not_written(url: str) -> None:
    async with asyncio.timeout(10):
        store = RedisStore(url, LIMITS)
        await store._redis.flushdb()
        large = record(step=1, size=LIMITS.size_bytes // 4)
        with pytest.raises(Overloaded, match="bytes"):
            await store.begin(KEY, None, large)
        assert await store.begin(KEY, None, record())
        with pytest.raises(Overloaded, match="bytes"):
            await store.follow(KEY, record(), large)
        await store.close()
