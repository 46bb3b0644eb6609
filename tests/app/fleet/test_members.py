"""What members of a fleet do together, over a real Redis; real servers are in tests/integration/fleet."""

import asyncio
from types import SimpleNamespace

import pytest

from app.artifacts.records import Pin
from app.errors import FleetLost, SwapRefused
from app.fleet import coordinator, fleet
from app.fleet.protocol import Busy
from app.fleet.store import FleetStore
from tests.app.fleet.conftest import joined, record, until

pytestmark = pytest.mark.anyio


async def test_the_first_member_founds_the_fleet_and_the_next_serves_what_it_serves(redis: str) -> None:
    async with joined(redis, "founding", "v3") as first, joined(redis, "founding", "v1") as second:
        assert first.member.local.joined
        assert second.member.local.joined
        assert (first.serves, second.serves) == ("v3", "v3")


async def test_a_change_is_held_by_all_before_any_serves_it_and_returns_when_all_do(redis: str) -> None:
    async with joined(redis, "change") as one, joined(redis, "change") as two, joined(redis, "change") as three:
        did = one.did = two.did = three.did = []
        await one.change("v1")
        assert did == ["holds for v1"] * 3 + ["serves v1"] * 3
        await until(lambda: {one.serves, two.serves, three.serves} == {"v1"})
        await three.change("v2")
        assert did[6:] == ["holds for v2"] * 3 + ["serves v2"] * 3


async def test_one_member_that_refuses_refuses_for_all_with_its_id_and_its_reason(redis: str) -> None:
    async with joined(redis, "refusal") as one, joined(redis, "refusal") as two:
        two.refuses = "its disk is full"
        with pytest.raises(SwapRefused, match=f"member {two.fleet.id}: its disk is full"):
            await one.change("v1")
        assert (one.serves, two.serves) == ("v0", "v0")
        two.refuses = ""
        await one.change("v2")
        await until(lambda: two.serves == "v2")


async def test_two_members_that_change_at_once_take_turns(redis: str) -> None:
    async with joined(redis, "turns") as one, joined(redis, "turns") as two:
        await one.coordinator.begin()
        with pytest.raises(Busy):
            await two.coordinator.begin()
        waiting = asyncio.create_task(two.coordinator.free())
        await asyncio.sleep(0)
        assert not waiting.done()
        await one.coordinator.end()
        await waiting
        await two.change("v1")


async def test_a_change_that_comes_no_further_is_not_waited_for_for_ever(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "_NO_STEP_S", 0.5)
    async with joined(redis, "stuck") as one, joined(redis, "stuck") as two:
        await one.coordinator.begin()
        with pytest.raises(FleetLost, match=f"for 0.5 s: member {one.fleet.id} changes it"):
            await two.coordinator.free()
        now = [0.0]
        monkeypatch.setattr(coordinator, "time", SimpleNamespace(monotonic=lambda: now[0]))
        waiting = asyncio.create_task(two.coordinator.free())
        for _ in range(4):  # each step is waited for anew
            await asyncio.sleep(0.05)
            now[0] += 0.3
            await one.coordinator.announce(record("v1"))
        assert not waiting.done()
        await one.coordinator.end()
        await waiting


async def test_pins_pauses_trials_and_what_served_before_are_agreed_on_without_a_swap(redis: str) -> None:
    async with joined(redis, "pins") as one, joined(redis, "pins") as two:
        await one.coordinator.agree(one.served, Pin("v0"), "what is tried")
        await one.coordinator.pause("reject")
        assert (two.pin, two.paused, two.traffic) == (Pin("v0"), "reject", "what is tried")
        await one.coordinator.end()
        await two.coordinator.agree(two.served, None, "")
        assert (one.pin, one.paused, one.traffic) == (None, "reject", "")
        await two.coordinator.pause(None)
        await two.coordinator.end()
        assert one.paused is None
        assert not one.did


async def test_a_member_that_leaves_is_waited_for_no_more(redis: str) -> None:
    async with joined(redis, "leaving") as one:
        async with joined(redis, "leaving") as two:
            await one.change("v1")
            assert two.fleet.id != one.fleet.id
        await one.change("v2")
        assert one.serves == "v2"


async def test_fleets_of_other_names_have_nothing_to_do_with_each_other(redis: str) -> None:
    async with joined(redis, "p", "v1", fleet="a") as one, joined(redis, "p", "v2", fleet="b") as two:
        await one.change("v5")
        assert (one.serves, two.serves) == ("v5", "v2")
        described = await two.fleet.describe()
        assert [member["id"] for member in described["members"]] == [two.fleet.id]
        assert described["members"][0]["policies"] == {"p": {"version": "v2", "state": "active"}}


async def test_each_member_knows_the_others_without_asking(redis: str) -> None:
    async with joined(redis, "seen", "v1", fleet="seen") as one, joined(redis, "seen", "v1", fleet="seen") as two:
        await one.change("v5")
        ids = {one.fleet.id, two.fleet.id}
        for member in (one, two):
            await until(lambda member=member: {other["id"] for other in member.fleet.seen()["members"]} == ids)
            seen = member.fleet.seen()
            assert (seen["name"], seen["member"], seen["leased"], seen["reaches"]) == (
                "seen",
                member.fleet.id,
                True,
                True,
            )
            assert {other["policies"]["seen"] for other in seen["members"]} <= {"v1", "v5"}
            assert all(other["url"] == "http://127.0.0.1:9" for other in seen["members"])


async def test_what_redis_has_lost_is_written_anew_by_who_knows_it(redis: str) -> None:
    async with joined(redis, "lost", fleet="lost") as one, joined(redis, "lost", fleet="lost") as two:
        await one.change("v1")
        await until(lambda: two.serves == "v1")
        epoch = one.member.local.applied
        store = FleetStore(redis, "lost")
        await store._redis.flushall()
        await until(lambda: not one.member.local.joined and not two.member.local.joined)
        await until(lambda: one.member.local.joined and two.member.local.joined)
        await two.change("v2")
        await until(lambda: one.serves == "v2")
        assert one.member.local.applied > epoch
        await store.close()


async def test_anything_else_in_its_place_counts_as_lost(redis: str) -> None:
    async with joined(redis, "garbage") as one:
        store = FleetStore(redis, "f")
        await store._redis.set(store._keys("garbage")[0], b"\xff not JSON")
        await until(lambda: not one.member.local.joined)
        await until(lambda: one.member.local.joined)
        seen = await store.read("garbage")
        assert seen.state is not None
        assert seen.state.committed.active == record("v0")
        await store.close()


async def test_without_redis_a_change_is_refused_and_everything_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_JOIN_S", 0.5)
    monkeypatch.setattr(coordinator, "_PATIENCE_S", 0.5)
    async with joined("redis://127.0.0.1:9/0", "none") as one:
        assert not one.member.local.joined
        with pytest.raises(FleetLost, match="nothing can be changed in this fleet now"):
            await one.change("v1")
        assert one.serves == "v0"
        assert not one.fleet.status().ready
