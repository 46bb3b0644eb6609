"""The console in a worker: its files, and streams that cost one computation, bounded, however their pages read."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api import console
from app.api.console import MOST_PAGES, Pages
from app.api.routes import console as routes
from app.errors import NotReady, Overloaded
from app.rpc.messages import ConsoleUpdate
from app.wire.merge_patch import apply
from tests.support.worker_in_process import TOKEN, Running, running

pytestmark = pytest.mark.anyio
STATE = {"server": {"pages": 1}, "n": 0}


class Source:
    """In the place of the control process: gives a state, and then a patch for each `step`."""

    def __init__(self, filler: str = "") -> None:
        self.number = 0
        self.asked: list[int] = []
        self.filler = filler
        self._changed = asyncio.Event()

    def step(self) -> None:
        self.number += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, number: int) -> ConsoleUpdate:
        self.asked.append(number)
        while number == self.number:
            await self._changed.wait()
        if number == self.number - 1 and number >= 0:
            patch = {"n": self.number, "filler": f"{self.number}{self.filler}"}
            return ConsoleUpdate(self.number, patch=json.dumps(patch).encode())
        return ConsoleUpdate(self.number, state=json.dumps({**STATE, "n": self.number}).encode())


class Reader:
    """What a page makes of its stream."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.state: dict[str, Any] = {}

    def read(self, text: bytes) -> None:
        for event in text.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":") and line)
            if "event" not in fields:
                continue
            self.kinds.append(fields["event"])
            data = json.loads(fields["data"])
            if fields["event"] == "patch":
                assert data["n"] == self.state["n"] + 1
                apply(self.state, data)
            else:
                self.state = data


async def settled(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_pages_share_one_computation_and_the_last_one_ends_it() -> None:
    source = Source()
    pages = Pages(source.after)
    open_pages = [pages.open() for _ in range(5)]
    readers = [Reader() for _ in open_pages]
    for page, reader in zip(open_pages, readers, strict=True):
        reader.read(await page.next())
    for _ in range(3):
        source.step()
        for page, reader in zip(open_pages, readers, strict=True):
            reader.read(await page.next())
    assert source.asked == [-1, 0, 1, 2, 3]
    assert [reader.kinds for reader in readers] == [["state", "patch", "patch", "patch"]] * 5
    assert all(reader.state["n"] == 3 and "now" in reader.state["server"] for reader in readers)
    late, reader = pages.open(), Reader()
    reader.read(await late.next())
    assert (reader.kinds, reader.state["n"]) == (["state"], 3)
    assert source.asked == [-1, 0, 1, 2, 3]
    for page in (*open_pages, late):
        pages.leave(page)
    for _ in range(5):
        source.step()
        await asyncio.sleep(0)
    assert source.asked == [-1, 0, 1, 2, 3]
    again, reader = pages.open(), Reader()
    reader.read(await again.next())
    assert (reader.kinds, reader.state["n"], source.asked[5:]) == (["state"], 8, [-1, 8])
    pages.leave(again)


async def test_a_page_that_does_not_read_gets_the_whole_state_and_nothing_piles_up() -> None:
    source = Source()
    pages = Pages(source.after)
    slow, other = pages.open(), pages.open()
    slow_reader, other_reader = Reader(), Reader()
    for page, reader in ((slow, slow_reader), (other, other_reader)):
        reader.read(await page.next())
    for number in range(1, 101):
        source.step()
        await settled(lambda number=number: pages._number == number)
        other_reader.read(await other.next())
        assert len(slow._waiting) <= 8
    slow_reader.read(await slow.next())
    assert slow_reader.kinds[:2] == ["state", "state"]
    assert slow_reader.state["n"] == other_reader.state["n"] == 100
    source.step()
    slow_reader.read(await slow.next())
    assert (slow_reader.kinds[-1], slow_reader.state["n"]) == ("patch", 101)
    for page in (slow, other):
        pages.leave(page)


async def test_updates_that_were_missed_make_a_new_state_and_errors_do_not_end_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "_AGAIN_S", 0.01)
    monkeypatch.setattr(console, "_HEARTBEAT_S", 0.05)
    source = Source()
    fails = [True]

    async def after(number: int) -> ConsoleUpdate:
        if fails.pop() if fails else False:
            raise RuntimeError("once")
        return await source.after(number)

    pages = Pages(after)
    page, reader = pages.open(), Reader()
    reader.read(await page.next())
    source.number += 1
    source.step()
    reader.read(await page.next())
    assert (reader.kinds, reader.state["n"]) == (["state", "state"], 2)
    assert await page.next() == b": still here\n\n"
    pages.leave(page)


async def test_only_so_many_pages_are_open_and_none_when_the_worker_stops() -> None:
    pages = Pages(Source().after)
    opened = [pages.open() for _ in range(MOST_PAGES)]
    with pytest.raises(Overloaded, match=f"{MOST_PAGES} pages of the console are open"):
        pages.check_room()
    pages.leave(opened.pop())
    pages.check_room()
    await opened[0].next()
    pages.close()
    with pytest.raises(NotReady):
        pages.check_room()
    for page in (*opened, pages.open()):
        assert (await page.next()).startswith(b"event: stop\n")
        assert await page.next() == b""
        pages.leave(page)


# Over HTTP.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "views").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "app.js").write_text("export {}")
    (tmp_path / "views" / "one.css").write_text("p {}")
    (tmp_path / "notes.md").write_text("no part of the page")
    (tmp_path / "app.js~").write_text("left by an editor")
    monkeypatch.setattr(routes, "_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
async def worker(files: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with running(monkeypatch, data_token="data") as worker:
        source = Source()
        worker.source = source  # type: ignore[attr-defined]
        worker.control.answers["console"] = source.after
        worker.control.call = call(worker)  # type: ignore[method-assign]
        yield worker


def call(worker: Running) -> Any:
    async def of(name: str, *args: Any) -> Any:
        assert name == "console"
        return await worker.source.after(*args)  # type: ignore[attr-defined]

    return of


def client(worker: Running, token: str = "") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.port}", headers=headers, trust_env=False, timeout=60)


async def test_files_of_the_page_are_sent_as_they_are_and_to_all(worker: Running) -> None:
    async with client(worker) as http:
        for path, media_type, content in (
            ("/console", "text/html; charset=utf-8", b"<!doctype html>"),
            ("/console/app.js", "text/javascript; charset=utf-8", b"export {}"),
            ("/console/views/one.css", "text/css; charset=utf-8", b"p {}"),
            ("/console?theme=dark", "text/html; charset=utf-8", b"<!doctype html>"),
        ):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media_type, content)
            policy = answer.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} < set(policy)
            assert not [rule for rule in policy if "unsafe" in rule or "*" in rule]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"
            head = await http.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(content))
            for known in (answer.headers["etag"], f'W/{answer.headers["etag"]}, "other"', "*"):
                again = await http.get(path, headers={"If-None-Match": known})
                assert (again.status_code, again.content) == (304, b"")
            assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_what_leads_to_the_page_is_relative_for_proxies_that_take_a_prefix_away(worker: Running) -> None:
    async with client(worker) as http:
        for path, to in (("/", "console"), ("/console/", "../console")):
            for method in ("GET", "HEAD"):
                answer = await http.request(method, path)
                assert (answer.status_code, answer.headers["location"]) == (307, to)
                assert answer.next_request is not None
                assert answer.next_request.url.path == "/console"


async def test_nothing_but_files_of_the_page_is_found(worker: Running) -> None:
    async with client(worker) as http:
        for path in (
            "/console/notes.md",
            "/console/app.js~",
            "/console/views",
            "/console/nothing.js",
            "/console/app.js/",
            "/console/index.html%00",
            "/console/%2e%2e/console.py",
            "/console/..%2f..%2f..%2f..%2fetc/passwd",
            "/console/%2fetc%2fpasswd",
            "/console/views/../app.css",
            "/console/C:%5cwindows",
            "/console//app.js",
            "/Console",
        ):
            answer = await http.get(path)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == 404
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            for path in ("/console", "/console/app.js", "/console/events"):
                answer = await http.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD"), (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
        assert (await raw(worker.port, b"BREW /console HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert not [path for path in paths if "console" in path or path == "/"]


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_no_path_climbs_out_of_the_folder(worker: Running) -> None:
    """As no client library would send it."""
    for target in (
        b"/console/../../../../../../etc/passwd",
        b"/console/./../console.py",
        b"/console/\\..\\..\\x",
        b"/console/views/../../__init__.py",
        b"http://other/console/../x.css",
    ):
        answer = await raw(worker.port, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer


async def gone(worker: Running) -> None:
    """Returns when no page is left: only a write shows that a client has gone."""
    async with asyncio.timeout(60):
        while worker.worker._pages.count:
            worker.source.step()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)


async def test_the_stream_wants_the_data_token(worker: Running) -> None:
    for token, status in (("", 401), (TOKEN, 401), ("data", 200)):
        async with client(worker, token) as http, http.stream("GET", "/console/events") as answer:
            assert answer.status_code == status
            if status == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert json.loads(await answer.aread())["status"] == 401
                continue
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            assert "set-cookie" not in answer.headers
            async for line in answer.aiter_lines():
                if line.startswith("data"):
                    break
    await gone(worker)
    async with client(worker, "data") as http:
        head = await http.head("/console/events")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert worker.worker._pages.count == 0


def stream(worker: Running, version: bytes = b"1.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", worker.port), 60)
    connection.sendall(b"GET /console/events HTTP/%b\r\nHost: x\r\nAuthorization: Bearer data\r\n\r\n" % version)
    connection.setblocking(False)
    return connection


async def test_one_page_too_many_is_refused_in_words_and_room_comes_back(worker: Running) -> None:
    streams = [stream(worker) for _ in range(MOST_PAGES)]
    await settled(lambda: worker.worker._pages.count == MOST_PAGES)
    async with client(worker, "data") as http:
        refused = await http.get("/console/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert f"{MOST_PAGES} pages of the console are open" in refused.json()["detail"]
        streams.pop().close()
        await settled(lambda: worker.worker._pages.count == MOST_PAGES - 1)
        async with http.stream("GET", "/console/events") as answer:
            assert answer.status_code == 200
    for connection in streams:
        connection.close()
    await gone(worker)


async def test_the_system_gives_up_a_page_whose_machine_has_vanished(worker: Running) -> None:
    connection = stream(worker)
    await settled(lambda: worker.worker._pages.count == 1)
    (one,) = worker.connections
    end = one.transport.get_extra_info("socket")
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    connection.close()


async def test_a_page_that_reads_nothing_holds_nobody_up_and_is_given_up(
    worker: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = worker.worker._http.config.http_protocol_class.shared
    monkeypatch.setattr(shared.unread, "_timeout_s", 3)
    source = worker.source  # type: ignore[attr-defined]
    source.filler = "x" * 200_000
    slow = stream(worker)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await settled(lambda: worker.worker._pages.count == 1)
    async with client(worker, "data") as http, http.stream("GET", "/console/events") as answer:
        lines = answer.aiter_lines()
        for _ in range(100):
            source.step()
            async for line in lines:
                if line.startswith("data"):
                    break
        await settled(lambda: worker.worker._pages.count == 1)  # the slow one has gone
    slow.close()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_streams_end_first_when_the_worker_stops(worker: Running, version: bytes) -> None:
    connection = stream(worker, version)
    loop = asyncio.get_running_loop()
    await settled(lambda: worker.worker._pages.count == 1)
    received = b""

    async def read() -> None:
        nonlocal received
        while data := await loop.sock_recv(connection, 65536):
            received += data
        connection.close()

    reading, began = asyncio.create_task(read()), loop.time()
    worker.worker._pages.close()
    await worker.worker._http.stop()
    assert loop.time() - began < 8  # and not for the deadline of requests, which is 10 s
    await reading
    assert b"event: stop\n" in received
    assert received.endswith(b"0\r\n\r\n" if version == b"1.1" else b"\n\n")


async def test_calls_of_admin_routes_are_among_the_figures_without_who_made_them(worker: Running) -> None:
    async with client(worker, "no token") as http:
        await http.post("/admin/policies/echo/reload%0a%00")
        await http.post("/action", json={"observation": [1, 2, 3, 4]})
        await http.post("/action", json={}, headers={"Authorization": "Bearer data"})
    figures = await worker.worker.figures()
    (noted,) = figures.calls
    assert (noted.call, noted.status) == ("POST /admin/policies/echo/reload%0A%00", 404)
    assert (figures.answers["echo"].answers, figures.answers["echo"].errors) == (1, 1)
    again = await worker.worker.figures()
    assert (again.calls, again.answers) == ([], {})
