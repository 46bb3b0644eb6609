"""Members, values and files that are not as they ought to be: what the others do all the same."""

import asyncio
import errno
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from app.control import fleet_files
from app.errors import FleetLost, SwapRefused, Unauthorized, UnknownVersion
from app.fleet import fleet, follower
from app.fleet.peers import ask_peers, find_newest, post_to_all, reload_at
from app.fleet.protocol import Committed, Report
from app.fleet.store import FleetStore, Member
from app.fleet.transfer import Wanted, fetch
from tests.app.fleet.conftest import Policy, joined, record, until

pytestmark = pytest.mark.anyio


async def test_a_member_whose_id_is_no_text_keeps_nobody_from_anything(redis: str) -> None:
    async with joined(redis, "odd", fleet="odd") as one:
        store = FleetStore(redis, "odd")
        await store._redis.hset(store._keys("odd")[1], b"\xff\xfe", b"{}")
        await store._redis.zadd(store._leases, {b"\xff\xfe": 9e12})
        async with asyncio.timeout(5):
            await one.change("v1")
        assert one.serves == "v1"
        await store.close()


async def test_another_format_is_nobody_elses_to_write_over(redis: str) -> None:
    async with joined(redis, "later", fleet="later") as one:
        store = FleetStore(redis, "later")
        later = b'{"format": 2, "epoch": 7}'
        await store._redis.set(store._keys("later")[0], later)
        one.member.changed.give()
        await asyncio.sleep(0.7)
        assert await store._redis.get(store._keys("later")[0]) == later
        await store.close()


@pytest.mark.parametrize("url", ["http://xn--/", "http://127.0.0.1:99999", "http://[::1", "none"])
async def test_a_member_at_no_url_does_not_answer(url: str) -> None:
    assert await ask_peers([Member("m", url, 0.0)]) == []
    assert await find_newest([url], "/find", None, "s") == ("", None)
    assert list(await post_to_all([url], "/take", {}, "s")) == [url]
    assert await reload_at(url, None, "s") is None


async def test_a_lease_is_renewed_whatever_goes_wrong_while_redis_is_lost(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(redis, "bug", fleet="bug") as one:
        asked = asyncio.Event()

        async def fails(_: object) -> NoReturn:
            asked.set()
            raise RuntimeError("a bug of ours")

        async def lost(*_: object, **__: object) -> NoReturn:
            raise FleetLost("gone")

        monkeypatch.setattr(fleet, "ask_peers", fails)
        with monkeypatch.context() as broken:
            broken.setattr(FleetStore, "renew", lost)
            one.fleet._changed.give()
            await asked.wait()
        await until(lambda: one.fleet.status().reaches)
        await one.change("v1")


async def test_what_nobody_has_any_more_does_not_keep_a_fleet_from_serving(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_JOIN_S", 0.1)
    monkeypatch.setattr(follower, "_NOBODY_S", 0.2)
    monkeypatch.setattr(follower, "_AGAIN_S", 0.1)
    monkeypatch.setattr(Policy, "serve", without_v5)
    async with joined(redis, "gone", "v5", fleet="gone"):
        pass
    async with joined(redis, "gone", "v6", fleet="gone") as two:
        await until(lambda: two.member.local.joined)
        assert two.serves == "v6"
        async with joined(redis, "gone", "v7", fleet="gone") as three:
            await until(lambda: three.member.local.joined)
            assert three.serves == "v6"


async def test_what_a_member_has_is_not_given_up_for_one_that_cannot_have_it(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_JOIN_S", 0.1)
    monkeypatch.setattr(follower, "_NOBODY_S", 0.0)
    monkeypatch.setattr(follower, "_AGAIN_S", 0.05)
    async with joined(redis, "kept", "v5", fleet="kept") as one:
        await until(lambda: one.member.local.joined)
        monkeypatch.setattr(Policy, "serve", without_v5)
        async with joined(redis, "kept", "v6", fleet="kept") as two:
            await asyncio.sleep(0.5)
            assert not two.member.local.joined
            assert (one.serves, one.member.local.joined) == ("v5", True)


async def without_v5(policy: Policy, committed: Committed) -> None:
    if committed.active == record("v5"):
        if policy.serves == "v5":
            return
        raise SwapRefused("no member gives it")
    policy._adopt(committed)


async def test_a_reload_asked_of_a_member_that_goes_without_a_word_is_made_here(redis: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts connections, and nobody answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with joined(redis, "word", fleet="word") as one:
            one.fleet.peers = [Member("m", url, 0.0)]  # until the next renewal, which finds none
            async with asyncio.timeout(30):
                assert await one.fleet.ask_one(url, "/reload", None) is None


async def test_a_full_disk_refuses_what_another_member_gives_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fleet_files, "fetch", full)
    parts: Any = SimpleNamespace(name="p", givers=lambda _: [], secret="s")
    with ThreadPoolExecutor(1) as executor:
        files = fleet_files.FleetFiles(parts, parts, parts, [], executor)
        with pytest.raises(SwapRefused, match="cannot be stored: No space left on device") as refused:
            await files.fetch("versions", "d", tmp_path / "d")
    assert refused.value.for_now
    assert refused.value.no_room


async def test_a_name_that_no_folder_can_have_is_not_here(tmp_path: Path) -> None:
    parts: Any = SimpleNamespace(secret="s", graphs=tmp_path)
    with ThreadPoolExecutor(1) as executor:
        files = fleet_files.FleetFiles(parts, parts, parts, [tmp_path], executor)
        for kind in ("graphs", "checkpoints"):
            with pytest.raises(UnknownVersion):
                await files.given(kind, "a" * 300, "s")


async def test_a_secret_that_redis_has_anew_is_known_at_once(redis: str) -> None:
    async with joined(redis, "secret", fleet="secret") as one:
        files = fleet_files.FleetFiles(one.fleet, SimpleNamespace(), SimpleNamespace(), [], SimpleNamespace())  # type: ignore[arg-type]
        store = FleetStore(redis, "secret")
        await store._redis.set("policy-server:fleet:{secret}:secret", "another")
        await files.check("another")
        with pytest.raises(Unauthorized):
            await files.check("a third")
        await store.close()


async def test_a_member_that_does_not_say_what_it_serves_is_described_all_the_same(redis: str) -> None:
    async with joined(redis, "says", fleet="says") as one:
        store = FleetStore(redis, "says")
        await store.renew(Member("m", "http://m", 0.0, {"says": {}}), begins=True)
        described = {member["id"]: member["policies"] for member in (await one.fleet.describe())["members"]}
        assert described["m"] == {"says": {"version": "", "state": "joining"}}
        await store.end("m")
        await store.close()


async def test_reports_of_members_that_are_forgotten_are_not_read_and_are_deleted(redis: str) -> None:
    store = FleetStore(redis, "forgotten")
    one, policies = Report(prepared=7), {"p": {}, "q": {}}
    await store.renew(Member("one", "http://one", 0.0, policies), begins=True)
    for gone in map(str, range(5)):
        for policy in policies:
            await store.report(policy, gone, Report(applied=1), "")
    for policy in policies:
        await store.report(policy, "one", one, "")
    assert (await store.read("p")).reports == {"one": one}
    await store.renew(Member("one", "http://one", 0.0, policies), begins=False)
    for policy in policies:
        assert await store._redis.hkeys(store._keys(policy)[1]) == [b"one"]
    await store.end("one")
    seen = await store.read("p")
    assert (seen.reports, seen.live) == ({}, frozenset())
    await store.close()


async def test_a_report_that_ends_with_its_lease_is_kept_until_its_member_is_forgotten(redis: str) -> None:
    store = FleetStore(redis, "frozen")
    for name in ("one", "frozen"):
        await store.renew(Member(name, f"http://{name}", 0.0, {"p": {}}), begins=True)
        await store.report("p", name, Report(applied=1), "")
    await store._redis.zadd(store._leases, {"frozen": time.time() * 1000 - 1000})
    await store.renew(Member("one", "http://one", 0.0, {"p": {}}), begins=False)
    assert set((await store.read("p")).reports) == {"one"}
    await store.renew(Member("frozen", "http://frozen", 0.0, {"p": {}}), begins=True)
    assert set((await store.read("p")).reports) == {"one", "frozen"}
    await store._redis.zadd(store._leases, {"frozen": time.time() * 1000 - 61_000})
    await store.renew(Member("one", "http://one", 0.0, {"p": {}}), begins=False)
    assert await store._redis.hkeys(store._keys("p")[1]) == [b"one"]
    await store.close()


async def test_a_member_that_was_forgotten_and_is_back_reports_anew(redis: str) -> None:
    async with joined(redis, "back", fleet="back") as one, joined(redis, "back", fleet="back") as two:
        store, known = FleetStore(redis, "back"), two.fleet.id
        await one.change("v1")
        report = (await store.read("back")).reports[known]
        await store._redis.zrem(store._leases, known)
        await store._redis.hdel(store._keys("back")[1], known)
        two.fleet._changed.give()
        async with asyncio.timeout(20):
            while (await store.read("back")).reports.get(known) != report:
                await asyncio.sleep(0.005)
        await until(lambda: two.member.local.joined)
        await one.change("v2")
        assert two.serves == "v2"
        await store.close()


async def test_a_member_that_stops_fetches_no_further(redis: str, tmp_path: Path) -> None:
    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    asked = asyncio.Event()
    server = await asyncio.start_server(busy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with joined(redis, "stops", fleet="stops") as one:
        one.fleet.peers = [Member("m", url, 0.0)]
        urls = lambda: one.fleet.givers("stops") or [url]  # noqa: E731
        fetching = asyncio.create_task(
            asyncio.to_thread(fetch, urls, Wanted("/f", "s", tmp_path / "f", lambda *_: True))
        )
        await asked.wait()
    with pytest.raises(SwapRefused, match="the server is stopping"):
        async with asyncio.timeout(20):
            await fetching
    server.close()
    await server.wait_closed()
