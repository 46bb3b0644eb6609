"""What both stores promise, and what each has of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from msgspec import structs

from app.errors import NotReady, Overloaded
from app.sessions.memory import MemoryStore
from app.sessions.record import Record
from app.sessions.redis_store import PREFIX, RedisStore
from app.sessions.store import Key, SessionStore
from tests.support.redis_server import redis_running
from tests.support.session_records import LIMITS, record

pytestmark = pytest.mark.anyio

KEY, OTHER = Key("p", "a"), Key("q", "a")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_running() as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SessionStore]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryStore(LIMITS, Clock())
        return
    redis = RedisStore(request.getfixturevalue("url"), LIMITS)
    await redis._redis.flushdb()
    yield redis
    await redis.close()


def alike(one: Record | None, other: Record) -> bool:
    assert one is not None
    plain = [structs.asdict(each) for each in (one, other)]
    arrays = [each.pop("state") | {"ended": each.pop("ended")} for each in plain]
    assert arrays[0].keys() == arrays[1].keys()
    # The number too: `longlong` equals `int64`, and engines take only one of them.
    assert all(arrays[0][name].dtype.num == arrays[1][name].dtype.num for name in arrays[0])
    return plain[0] == plain[1] and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_a_record_is_the_same_after_its_bytes() -> None:
    for one in (record(), record(size=0), structs.replace(record(retained="d"), state={}, ended=np.zeros(0, bool))):
        assert alike(Record.from_bytes(one.to_bytes()), one)
    assert Record.from_bytes(structs.replace(record(), ended=None).to_bytes()).ended is None


async def test_records_follow_one_another(store: SessionStore) -> None:
    first, second, third = record(), record(step=1), record(step=2)
    assert await store.get(KEY) is None
    assert await store.begin(KEY, None, first)
    assert not await store.begin(KEY, None, record("c"))
    first = await store.get(KEY)
    assert alike(first, record())
    assert await store.follow(KEY, first, second)
    assert not await store.follow(KEY, first, third)  # it has moved already
    assert not await store.follow(OTHER, first, second)
    assert alike(await store.get(KEY), second)
    assert await store.get(OTHER) is None
    assert await store.count() == 1


async def test_a_session_that_begins_anew_is_another_one(store: SessionStore) -> None:
    assert await store.begin(KEY, None, record())
    old = await store.get(KEY)
    assert await store.begin(KEY, old, record("c", run_id="new"))
    assert not await store.follow(KEY, old, record(step=1))
    assert not await store.begin(KEY, old, record("d"))
    assert (await store.get(KEY)).run.run_id == "new"
    assert await store.count() == 1


async def test_sessions_end_wholly_or_only_that_run(store: SessionStore) -> None:
    assert await store.end(KEY, None) is None
    for key in (KEY, OTHER):
        assert await store.begin(key, None, record(retained="d"))
    for another in ("another", ""):
        assert (await store.end(KEY, another)).run.run_id == "r"
    assert await store.get(KEY) is not None
    assert await store.end(KEY, "r") is not None
    assert await store.get(KEY) is None
    assert (await store.retained("p"), await store.retained("q")) == (set(), {"d"})
    assert await store.end(OTHER, None) is not None
    assert (await store.count(), await store.retained("q")) == (0, set())


async def test_there_are_no_more_sessions_than_may_be(store: SessionStore) -> None:
    keys = [Key("p", str(number)) for number in range(4)]
    for key in keys[:3]:
        await store.check_room(key, None)
        assert await store.begin(key, None, record())
    for beyond in (store.check_room(keys[3], None), store.begin(keys[3], None, record())):
        with pytest.raises(Overloaded, match="3 sessions"):
            await beyond
    await store.check_room(keys[0], None)  # it would take its own place
    await store.end(keys[1], None)
    assert await store.begin(keys[3], None, record())


async def test_one_client_has_no_more_sessions_than_it_may(store: SessionStore) -> None:
    keys = [Key("p", "0"), Key("q", "1"), Key("p", "2"), Key("p", "3")]
    for key in keys[:2]:
        await store.check_room(key, None, "one")
        assert await store.begin(key, None, record(), "one")
    for beyond in (store.check_room(keys[2], None, "one"), store.begin(keys[2], None, record(), "one")):
        with pytest.raises(Overloaded, match="2 sessions that were started from one are open"):
            await beyond
    await store.check_room(keys[0], None, "one")  # it would take its own place
    assert await store.begin(keys[0], await store.get(keys[0]), record("c"), "one")
    assert await store.begin(keys[2], None, record(), "two")
    with pytest.raises(Overloaded, match="3 sessions are open"):
        await store.begin(keys[3], None, record(), "two")
    # One that another client takes over is that one's.
    assert await store.begin(keys[0], await store.get(keys[0]), record("d"), "two")
    await store.end(keys[1], None)
    with pytest.raises(Overloaded, match="from two"):
        await store.check_room(keys[3], None, "two")
    await store.check_room(keys[3], None, "one")
    assert await store.begin(keys[3], None, record(), "one")
    for key in keys:
        await store.end(key, None)
    for number in range(2):
        assert await store.begin(Key("p", f"again {number}"), None, record(), "two")


async def test_sessions_that_were_left_do_not_count_for_their_client_in_memory() -> None:
    clock = Clock()
    store = MemoryStore(LIMITS, clock)
    for name in "ab":
        assert await store.begin(Key("p", name), None, record(), "one")
    clock.now += LIMITS.idle_s
    await store.check_room(Key("p", "c"), None, "one")
    assert not store._of_client


async def test_sessions_that_were_left_do_not_count_for_their_client_in_redis(url: str) -> None:
    """The client that started them may have been killed; those that are stepped count on, in whichever worker."""

    limits = LIMITS._replace(idle_s=2)
    stores = [RedisStore(url, limits) for _ in range(2)]
    try:
        await stores[0]._redis.flushdb()
        for name in "ab":
            assert await stores[0].begin(Key("p", name), None, record(), "one")
        with pytest.raises(Overloaded, match="from one"):
            await stores[1].check_room(Key("p", "c"), None, "one")
        before = await stores[1].get(Key("p", "a"))
        while await stores[1].count() == 2:  # `a` is stepped by another worker, `b` is left
            after = record(step=before.step + 1)
            assert await stores[1].follow(Key("p", "a"), before, after)
            before = after
        assert await stores[1].begin(Key("p", "c"), None, record(), "one")
        with pytest.raises(Overloaded, match="from one"):
            await stores[0].check_room(Key("p", "d"), None, "one")
        while await stores[0].count() or await stores[0]._redis.keys("*"):
            await asyncio.sleep(0.05)
        await stores[0].check_room(Key("p", "d"), None, "one")
    finally:
        for store in stores:
            await store.close()


async def test_no_more_versions_are_held_than_may_be(store: SessionStore) -> None:
    keys = [Key("p", str(number)) for number in range(3)]
    for key, digest in zip(keys, ("one", "two"), strict=False):
        assert await store.begin(key, None, record(retained=digest))
    assert await store.retained("p") == {"one", "two"}
    for beyond in (store.check_room(keys[2], "three"), store.begin(keys[2], None, record(retained="three"))):
        with pytest.raises(Overloaded, match="2 versions"):
            await beyond
    await store.check_room(keys[2], "two")
    await store.check_room(Key("q", "2"), "three")  # of another policy
    old = await store.get(keys[0])
    await store.check_room(keys[0], "three")  # it would take its own place
    assert await store.begin(keys[0], old, record("c", retained=None))
    assert await store.retained("p") == {"two"}
    await store.check_room(keys[2], "three")


async def test_memory_is_bounded_by_bytes_and_given_back() -> None:
    store = MemoryStore(LIMITS, Clock())
    with pytest.raises(Overloaded, match="bytes"):
        await store.begin(KEY, None, record(size=30_000))
    assert await store.begin(KEY, None, record(size=20_000))
    with pytest.raises(Overloaded, match="bytes"):
        await store.begin(OTHER, None, record(size=20_000))
    before = store.find(KEY)
    assert before is not None
    assert await store.begin(KEY, before, record("c", size=24_000))  # the old one's room is free
    after = record("c", 1, size=2)
    assert store.put(KEY, store.find(KEY), after)  # type: ignore[arg-type]
    assert store.size_bytes == after.size
    await store.end(KEY, None)
    assert (store.size_bytes, await store.count()) == (0, 0)


async def test_what_is_idle_is_dropped_and_what_is_used_is_not() -> None:
    clock = Clock()
    store = MemoryStore(LIMITS, clock)
    for key in (KEY, OTHER):
        assert await store.begin(key, None, record(retained="d"))
    clock.now += LIMITS.idle_s - 1
    assert store.find(KEY) is not None
    clock.now += 1
    assert (await store.retained("p"), await store.retained("q")) == ({"d"}, set())
    clock.now += LIMITS.idle_s
    assert store.find(KEY) is None
    assert (store.size_bytes, await store.count()) == (0, 0)


async def test_redis_forgets_what_is_idle(url: str) -> None:
    store = RedisStore(url, LIMITS._replace(idle_s=0.05))
    await store._redis.flushdb()
    assert await store.begin(KEY, None, record(retained="d"))
    while await store.count():
        await asyncio.sleep(0.005)
    while await store._redis.keys(f"{PREFIX}record:*"):  # for another millisecond, in which reading it would renew it
        await asyncio.sleep(0.001)
    assert await store.get(KEY) is None
    assert await store.retained("p") == set()
    await store.close()


async def test_a_record_of_another_kind_of_server_is_none(url: str) -> None:
    store = RedisStore(url, LIMITS)
    await store._redis.hset("policy-server:sessions:record:p/odd", "data", b"\x93 no record")
    odd = Key("p", "odd")
    assert await store.get(odd) is None
    assert await store.begin(odd, None, record())
    await store.close()


async def test_more_may_ask_at_once_than_there_are_connections(url: str) -> None:
    store = RedisStore(url, LIMITS)
    assert await store.begin(Key("p", "busy"), await store.get(Key("p", "busy")), record())
    found = await asyncio.gather(*(store.get(Key("p", "busy")) for _ in range(300)))
    assert all(found)
    await store.close()


async def test_redis_that_is_not_there_is_named() -> None:
    store = RedisStore("redis://127.0.0.1:1/0", LIMITS)
    with pytest.raises(NotReady, match="store"):
        await store.get(KEY)
    await store.close()
