"""Sessions in memory: what is idle goes, what is used stays, and what a client takes is given back."""

import pytest

from app.errors import Overloaded
from app.rpc.messages import Spread
from app.sessions import memory
from app.sessions.memory import MemoryStore
from app.sessions.store import Key, Limits
from tests.support.session_records import LIMITS, record

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(name: str) -> Key:
    return Key("p", name)


async def test_a_session_that_is_read_counts_as_used_and_one_that_is_not_goes() -> None:
    clock = Clock()
    store = MemoryStore(LIMITS, clock)
    for name in ("read", "left"):
        assert await store.begin(key(name), None, record())
    for _ in range(3):
        clock.now += LIMITS.idle_s * 0.6
        assert store.find(key("read")) is not None
    assert store.find(key("left")) is None
    assert await store.count() == 1


async def test_the_sweep_drops_all_that_are_idle_and_no_other() -> None:
    clock = Clock()
    store = MemoryStore(LIMITS, clock)
    for name in "abc":
        assert await store.begin(key(name), None, record())
        clock.now += 1
    store.find(key("a"))  # it is the newest now
    clock.now = LIMITS.idle_s + 2.5
    store.sweep()
    assert await store.count() == 1
    assert store.find(key("a")) is not None


async def test_a_step_that_is_not_read_does_not_keep_a_session() -> None:
    """In every step `find` comes before `put`."""
    clock = Clock()
    store = MemoryStore(LIMITS, clock)
    one = record()
    assert await store.begin(key("a"), None, one)
    clock.now += LIMITS.idle_s * 0.6
    assert store.put(key("a"), one, record(step=1))
    clock.now += LIMITS.idle_s * 0.6
    assert store.find(key("a")) is None


async def test_a_record_follows_only_the_newest_one() -> None:
    store = MemoryStore(LIMITS, Clock())
    first, second = record(), record(step=1)
    assert await store.begin(key("a"), None, first)
    assert store.put(key("a"), first, second)
    assert not store.put(key("a"), first, record(step=1))
    assert not store.put(key("b"), first, second)
    assert store.find(key("a")) is second


async def test_the_bytes_of_all_records_are_counted_and_given_back() -> None:
    store = MemoryStore(LIMITS, Clock())
    small, large = record(), record(size=1000)
    assert await store.begin(key("a"), None, small)
    assert await store.begin(key("b"), None, small)
    assert store.size_bytes == 2 * small.size
    assert store.put(key("a"), small, large)
    assert store.size_bytes == small.size + large.size
    assert await store.end(key("a"), None) is large
    assert store.size_bytes == small.size


async def test_steps_may_outgrow_the_room_but_no_session_starts_then() -> None:
    store = MemoryStore(LIMITS, Clock())
    one, huge = record(), record(step=1, size=LIMITS.size_bytes)
    assert await store.begin(key("a"), None, one)
    assert store.put(key("a"), one, huge)
    with pytest.raises(Overloaded, match=f"open sessions take {huge.size} bytes of {LIMITS.size_bytes}"):
        await store.check_room(key("b"), None)
    await store.check_room(key("a"), None)  # it would take its own place


async def test_a_store_whose_room_is_all_taken_has_none_for_another_session() -> None:
    one = record()
    store = MemoryStore(LIMITS._replace(size_bytes=one.size), Clock())
    await store.check_room(key("a"), None)
    assert await store.begin(key("a"), None, one)
    with pytest.raises(Overloaded, match="open sessions take"):
        await store.check_room(key("b"), None)


async def test_a_version_is_retained_while_any_session_keeps_it() -> None:
    store = MemoryStore(LIMITS, Clock())
    for name in "ab":
        assert await store.begin(key(name), None, record(retained="d"))
    await store.end(key("a"), None)
    assert store.retains("p", "d")
    assert not store.retains("q", "d")
    await store.end(key("b"), None)
    assert not store.retains("p", "d")
    assert await store.retained("p") == set()


async def test_a_session_that_starts_over_keeps_its_new_version_alone() -> None:
    store = MemoryStore(LIMITS, Clock())
    one = record(retained="d")
    assert await store.begin(key("a"), None, one)
    assert await store.begin(key("a"), one, record("c", retained="e"))
    assert await store.retained("p") == {"e"}


async def test_a_refused_start_leaves_the_session_before_it() -> None:
    store = MemoryStore(LIMITS, Clock())
    one = record()
    assert await store.begin(key("a"), None, one, "client")
    with pytest.raises(Overloaded):
        await store.begin(key("a"), one, record("c", size=LIMITS.size_bytes), "client")
    assert store.find(key("a")) is one
    assert store.size_bytes == one.size


async def test_clients_that_are_not_known_are_not_counted() -> None:
    store = MemoryStore(LIMITS._replace(sessions=10), Clock())
    for number in range(LIMITS.per_client + 1):
        assert await store.begin(key(str(number)), None, record())
    for number in range(LIMITS.per_client):
        assert await store.begin(key(f"of one {number}"), None, record(), "one")
    with pytest.raises(Overloaded, match="from one"):
        await store.begin(key("more"), None, record(), "one")
    assert await store.begin(key("more"), None, record())


async def test_sessions_are_spread_by_policy_step_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    limits = Limits(sessions=200, size_bytes=10**6, idle_s=60, retained_versions=2, per_client=200)
    store = MemoryStore(limits, clock)
    assert store.spread() == Spread({}, {}, {})
    for number in range(101):
        assert await store.begin(Key("pq"[number % 2], str(number)), None, record(step=number))
        clock.now += 0.5
    spread = store.spread()
    assert spread.policies == {"p": 51, "q": 50}
    assert spread.steps == {"p50": 50, "p90": 90, "max": 100}
    assert spread.idle_s == {"p50": 25.5, "p90": 45.5, "max": 50.5}
    monkeypatch.setattr(memory, "_MOST_LOOKED_AT", 3)
    assert store.spread().policies == spread.policies
    assert store.spread().idle_s["max"] == 50.5
