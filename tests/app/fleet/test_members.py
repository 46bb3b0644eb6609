"""What members of a fleet do together, over a real Redis; real servers are in tests/integration/fleet."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.artifacts.records import Pin, VersionRecord
from app.errors import FleetLost, SwapRefused
from app.fleet import coordinator, fleet, member
from app.fleet.follower import Following
from app.fleet.member import PolicyMember
from app.fleet.protocol import Busy, Change, Committed, Phase, PolicyState, Report
from app.fleet.store import FleetStore, Notification, Snapshot
from tests.app.fleet.conftest import Policy, joined, record, until

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


async def test_others_are_notified_of_each_step_that_they_wait_for_and_of_no_report(redis: str) -> None:
    async with joined(redis, "notices") as one, joined(redis, "notices"):
        store, seen = FleetStore(redis, "f"), []

        async def note() -> None:
            async for came in store.notifications("another"):
                phase = came.state.change.phase.value if came.state and came.state.change else ""
                seen.append((came.policy, phase, came.report))

        noting = asyncio.create_task(note())
        await until(lambda: bool(seen))
        await one.change("v1")
        await until(lambda: len(seen) > 4)
        noting.cancel()
        await store.close()
        steps = ["preparing", "holding", "claimed", ""]
        assert seen == [("", "", None), *(("notices", phase, None) for phase in steps)]


async def test_all_that_ask_at_the_same_time_get_what_is_read_once_after_they_did(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(redis, "reads") as one:
        read, go_on, reads = one.member.store.read, asyncio.Event(), 0

        async def counted(policy: str) -> Snapshot:
            nonlocal reads
            reads += 1
            await go_on.wait()
            return await read(policy)

        one.member.note(coordinates=True)  # or it would look, too
        await asyncio.sleep(0.05)
        monkeypatch.setattr(one.member.store, "read", counted)
        first = [asyncio.create_task(one.member.read()) for _ in range(3)]
        await until(lambda: reads == 1)
        later = asyncio.create_task(one.member.read())
        given_up = asyncio.create_task(one.member.read())
        await until(lambda: reads == 2)
        given_up.cancel()
        go_on.set()
        assert len({id(seen) for seen in await asyncio.gather(*first)}) == 1
        assert (await later).state is not None
        assert reads == 2


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads for no reason: what is done within seconds is done because Redis has said so."""
    monkeypatch.setattr(member, "TICK_S", 60.0)


@pytest.mark.usefixtures("no_tick")
async def test_everything_goes_on_by_what_redis_notifies_of(redis: str) -> None:
    async with asyncio.timeout(20), joined(redis, "notified") as one, joined(redis, "notified") as two:
        await one.change("v1")
        await two.change("v2")
        await until(lambda: (one.serves, two.serves) == ("v2", "v2"))
        two.refuses = "its disk is full"
        with pytest.raises(SwapRefused, match="its disk is full"):
            await one.change("v3")
        two.refuses = ""
        await one.coordinator.pause("reject")
        await one.coordinator.end()
        await one.coordinator.agree(one.served, Pin("v2"), "")
        await one.coordinator.end()
        assert (two.paused, two.pin) == ("reject", Pin("v2"))
        async with joined(redis, "notified") as three:
            await three.change("v4")
            assert (one.serves, two.serves, three.serves) == ("v4", "v4", "v4")
        await one.change("v5")
        assert two.serves == "v5"
        await two.coordinator.free()


async def test_what_is_committed_counts_though_redis_forgets_before_all_have_followed(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wanted it is refused, as not all are known to follow; the others follow when they can."""
    async with joined(redis, "forgets") as one, joined(redis, "forgets") as two:
        report, forgot = two.member.store.report, asyncio.Event()

        async def late(policy: str, member: str, what: Report, to: str) -> None:
            if what.applied > 1 and not forgot.is_set():
                forgot.set()
                await two.member.store._redis.flushall()
                await asyncio.sleep(0.6)  # one tick
            await report(policy, member, what, to)

        monkeypatch.setattr(two.member.store, "report", late)
        with pytest.raises(FleetLost, match="it is committed, but not all servers are known to follow") as lost:
            await one.change("v1")
        assert lost.value.is_committed
        assert one.member.known is not None
        assert one.member.known.active.name == "v1"
        await until(lambda: two.serves == "v1" and one.member.local.joined and two.member.local.joined)


async def test_a_member_that_cannot_serve_what_is_committed_is_not_ready_and_not_waited_for(redis: str) -> None:
    async with asyncio.timeout(20), joined(redis, "cannot") as one, joined(redis, "cannot") as two:
        follow = two.follow

        async def fails_after_all(what: VersionRecord, following: Following) -> None:
            await following.prepared(what)
            await following.held()
            two.refuses = "no memory"
            raise SwapRefused(two.refuses, True)

        two.follow = fails_after_all  # type: ignore[method-assign]
        await one.change("v1")
        assert (one.serves, two.serves) == ("v1", "v0")
        assert not two.member.local.joined
        assert not two.fleet.status().ready
        assert two.member.reason == "no memory"
        two.refuses, two.follow = "", follow  # type: ignore[method-assign]
        await until(lambda: two.serves == "v1" and two.member.local.joined)
        await two.change("v2")
        assert one.serves == "v2"


@pytest.mark.usefixtures("no_tick")
async def test_a_member_that_joins_or_leaves_while_a_version_is_prepared_is_waited_for_or_not(redis: str) -> None:
    async with asyncio.timeout(20), joined(redis, "joining") as one:
        await one.coordinator.begin()
        await one.coordinator.announce(record("v1"))
        async with joined(redis, "joining") as two:
            await one.coordinator.prepared(record("v1"))
            assert two.did == []
            await until(lambda: two.did == ["holds for v1"])
            await one.coordinator.held()
            await one.coordinator.switched()
            assert two.serves == "v1"
            await one.coordinator.end()
        await one.change("v2")


@pytest.mark.usefixtures("no_tick")
async def test_a_change_of_one_policy_takes_few_reads(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined(redis, "few") as one, joined(redis, "few") as two:
        reads: dict[str, int] = {}

        def count(name: str, policy: Policy) -> None:
            run = policy.member.store._run

            async def counted(script: str, keys: list[str], arguments: list[object]) -> object:
                reads[name] = reads.get(name, 0) + (script == "read")
                return await run(script, keys, arguments)

            monkeypatch.setattr(policy.member.store, "_run", counted)

        await one.change("v1")
        await asyncio.sleep(0.05)
        count("one", one)
        count("two", two)
        await one.change("v2")
        await asyncio.sleep(0.05)
        assert reads["one"] <= 3, "to begin, and after the end"
        assert reads["two"] <= 4, "after what it did"


async def test_a_message_that_cannot_be_decoded_ends_nothing(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined(redis, "garbage") as one, joined(redis, "garbage"):
        store: FleetStore = one.member.store
        deep = b"[" * 100_000
        for channel, text in (
            (store._channel, b"garbage\n" + deep),
            (store._channel, b"\xff"),
            (store._channel, b'garbage\n{"format":99}'),
            (store._reported + one.fleet.id, b"garbage\nx\n" + deep),
            (store._reported + one.fleet.id, b"garbage"),
        ):
            await store._redis.publish(channel, text)
        await asyncio.sleep(0.05)
        monkeypatch.setattr(member, "TICK_S", 60.0)
        async with asyncio.timeout(20):
            await one.change("v1")


def state(revision: int, coordinator: str = "") -> PolicyState:
    change = Change(2, coordinator, Phase.PREPARING, record("v1")) if coordinator else None
    return PolicyState(Committed(1, (record("v0"),)), 2, frozenset({"us"}), change, revision)


class Kept:
    """In the place of Redis."""

    def __init__(self) -> None:
        self.seen = Snapshot(b"5", state(5), {}, frozenset({"us", "them"}), 0)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.writes = 0
        self.reports: list[Report] = []

    async def report(self, policy: str, by: str, report: Report, to: str) -> None:
        self.writes += 1
        await self.go_on.wait()
        self.reports.append(report)

    async def read(self, policy: str) -> Snapshot:
        seen = self.seen
        await self.go_on.wait()
        return seen

    async def step(self, policy: str, step: Any, seen: Snapshot | None = None) -> Snapshot:
        self.seen = Snapshot(b"", step(self.seen), {}, self.seen.live, 0)
        return self.seen


def pushed(revision: int, coordinator: str = "") -> Notification:
    return Notification("p", f"{revision}".encode(), state(revision, coordinator))


async def test_a_state_that_was_pushed_is_taken_where_it_says_all_that_is_to_be_known() -> None:
    kept: Any = Kept()
    one = PolicyMember("p", "us", kept, lambda: None)
    await one.read()
    one.notified(pushed(6, "them"))
    taken = one.take_pushed()
    assert taken is not None
    assert (taken.state, one.take_pushed()) == (state(6, "them"), None)
    for later in (Notification(), Notification("p", b"odd"), pushed(8, "a stranger")):
        one.notified(pushed(7))
        one.notified(later)
        assert one.take_pushed() is None
    one.notified(pushed(9))
    await one.step(lambda before, seen: state(10))
    assert one.take_pushed() is None, "ours is later"
    event = one.changed.next()
    one.notified(pushed(10))
    assert not event.is_set(), "ours, as it comes back"
    await one.step(lambda before, seen: before)
    one.notified(pushed(11))
    assert event.is_set()


async def test_a_read_that_began_before_a_step_does_not_make_it_forgotten() -> None:
    kept: Any = Kept()
    one = PolicyMember("p", "us", kept, lambda: None)
    kept.go_on.clear()
    reading = asyncio.create_task(one.read())
    await asyncio.sleep(0.01)
    await one.step(lambda before, seen: state(20))
    kept.go_on.set()
    await reading
    one.notified(pushed(19))
    assert one.take_pushed() is None
    kept.seen = Snapshot(b"", state(0), {}, frozenset(), 0)  # Redis has lost it
    await one.read()
    one.notified(pushed(1))
    assert one.take_pushed() is not None


async def test_reports_say_whether_anything_else_has_come() -> None:
    kept: Any = Kept()
    one = PolicyMember("p", "us", kept, lambda: None)
    one.note(coordinates=True)
    one.notified(Notification("p", member="them", report=Report(prepared=7)))
    assert (one.take_news(), one.take_reports()) == (False, {"them": Report(prepared=7)})
    one.notified(Notification("p", member="them", report=Report(held=7)))
    one.notified(Notification())
    assert (one.take_news(), one.take_news(), one.take_reports()) == (True, False, {"them": Report(held=7)})
    one.notified(pushed(6))  # before the answer to the step that made it
    await one.step(lambda before, seen: state(6))
    assert not one.take_news()
    one.notified(pushed(7))
    assert one.take_news()
    one.close()
    assert one.take_news()


async def test_one_member_that_refuses_refuses_for_all_with_its_id_and_its_reason(redis: str) -> None:
    async with joined(redis, "refusal") as one, joined(redis, "refusal") as two:
        two.refuses = "its disk is full"
        with pytest.raises(SwapRefused, match=f"member {two.fleet.id}: its disk is full"):
            await one.change("v1")
        assert (one.serves, two.serves) == ("v0", "v0")
        two.refuses = ""
        await one.change("v2")
        await until(lambda: two.serves == "v2")


LOST = FleetLost("the fleet's Redis cannot be used: OOM command not allowed when used memory > 'maxmemory'.")


@pytest.mark.parametrize("arrives", [False, True], ids=["refused", "its answer lost"])
@pytest.mark.parametrize("what", ["prepared", "held", "applied", "refused"])
async def test_a_report_that_redis_does_not_acknowledge_is_written_again(
    redis: str, what: str, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "TICK_S", 0.01)
    name = f"report-{what}-{arrives}"
    async with asyncio.timeout(20), joined(redis, name) as one, joined(redis, name) as two:
        write, lost = two.member.store.report, 0

        async def fails_twice(policy: str, by: str, report: Report, to: str) -> None:
            nonlocal lost
            if getattr(report, what) > 1 and lost < 2:
                lost += 1
                if arrives:
                    await write(policy, by, report, to)
                raise LOST
            await write(policy, by, report, to)

        monkeypatch.setattr(two.member.store, "report", fails_twice)
        if what == "refused":
            two.refuses = "its disk is full"
            with pytest.raises(SwapRefused, match="its disk is full"):
                await one.change("v1")
        else:
            await one.change("v1")
            assert (one.serves, two.serves) == ("v1", "v1")
        assert lost > 0
        two.refuses = ""
        await two.change("v2")
        assert one.serves == "v2"


def fail_once(policy: Policy, what: str, arrives: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has a member get no answer to its next step whose new state has `what` in it; returns what has failed."""
    run, failed = policy.member.store._run, []

    async def failing(script: str, keys: list[str], arguments: list[Any]) -> Any:
        if failed or script != "swap" or what not in arguments[1].decode():
            return await run(script, keys, arguments)
        failed.append(what)
        if arrives:
            await run(script, keys, arguments)
        raise LOST

    monkeypatch.setattr(policy.member.store, "_run", failing)
    return failed


@pytest.mark.parametrize("arrives", [False, True], ids=["refused", "its answer lost"])
async def test_a_claim_ends_where_redis_does_not_acknowledge_its_end(
    redis: str, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "TICK_S", 0.01)
    name = f"release-{arrives}"
    async with asyncio.timeout(20), joined(redis, name) as one, joined(redis, name) as two:
        failed = fail_once(one, '"change":null', arrives, monkeypatch)
        await one.change("v1")
        assert failed
        await two.coordinator.free()
        await two.change("v2")
        assert one.serves == "v2"


async def test_a_claim_ends_of_which_its_member_does_not_learn(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "TICK_S", 0.01)
    monkeypatch.setattr(coordinator, "_PATIENCE_S", 0.0)
    async with asyncio.timeout(20), joined(redis, "unknown") as one, joined(redis, "unknown") as two:
        failed = fail_once(one, '"phase":"claimed"', True, monkeypatch)
        with pytest.raises(FleetLost, match="OOM"):
            await one.change("v1")
        assert failed
        await two.coordinator.free()
        await two.change("v2")
        assert one.serves == "v2"


async def test_a_member_does_not_end_a_claim_of_its_own_that_has_not_been_answered_yet(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(20), joined(redis, "answer") as one, joined(redis, "answer") as two:
        run, go_on = one.member.store._run, asyncio.Event()

        async def answers_late(script: str, keys: list[str], arguments: list[Any]) -> Any:
            answer = await run(script, keys, arguments)
            if script == "swap":
                await go_on.wait()
            return answer

        with monkeypatch.context() as late:
            late.setattr(one.member.store, "_run", answers_late)
            beginning = asyncio.create_task(one.coordinator.begin())
            for _ in range(20):
                one.member.changed.give()
                await two.member.read()
            go_on.set()
            await beginning
        await one.coordinator.announce(record("v1"))
        await one.coordinator.end()


async def test_a_member_that_cannot_claim_looks_at_what_has_come_meanwhile(redis: str) -> None:
    async with asyncio.timeout(20), joined(redis, "meanwhile") as one, joined(redis, "meanwhile") as two:
        await two.coordinator.begin()
        event = one.member.changed.next()
        with pytest.raises(Busy):
            await one.coordinator.begin()
        assert event.is_set()
        assert not one.member.local.coordinates
        await two.coordinator.end()


async def test_what_a_member_cannot_ask_redis_while_it_prepares_refuses_for_now(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(20), joined(redis, "asks") as one, joined(redis, "asks") as two:

        async def follow(*_: object) -> None:
            raise LOST

        monkeypatch.setattr(two, "follow", follow)
        with pytest.raises(SwapRefused, match=f"member {two.fleet.id}: .*OOM") as refused:
            await one.change("v1")
        assert refused.value.for_now


async def test_a_report_is_written_after_those_before_it() -> None:
    kept: Any = Kept()
    one = PolicyMember("p", "us", kept, lambda: None)
    kept.go_on.clear()
    first = asyncio.create_task(one.report("them", prepared=7))
    await asyncio.sleep(0)
    second = asyncio.create_task(one.report("them", held=7))
    again = asyncio.create_task(one.deliver())
    await asyncio.sleep(0)
    assert kept.writes == 1, "one at a time"
    kept.go_on.set()
    await asyncio.gather(first, second, again)
    assert kept.reports == [Report(prepared=7), Report(prepared=7, held=7)]


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
