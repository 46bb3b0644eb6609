"""deploy/haproxy.cfg in a real HAProxy, before members that tests drive by hand."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.haproxy import proxied

ACTION = "/v1/policies/p/action"
_PATIENCE_S = 60.0


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100


@dataclass
class Member:
    """Answers with its name.

    `asked` has the method and path of each request but checks; of these, the next `silent` ones get no answer. Checks
    are answered after `busy_s` seconds; `checked` counts them by their path.
    """

    name: str
    alive: bool = True
    ready: bool = True
    silent: int = 0
    busy_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    server: http.server.ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def stop_listening(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(member: Member) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status = 200
            if self.path in ("/readyz", "/livez"):
                time.sleep(member.busy_s)
                member.checked[self.path] += 1
                status = 200 if (member.ready if self.path == "/readyz" else member.alive) else 503
            else:
                member.asked.append(f"{self.command} {self.path}")
                if member.silent:
                    member.silent -= 1
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
            answer = json.dumps(
                {"member": member.name, "bytes": len(body), "for": self.headers.get("X-Forwarded-For")}
            ).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = answer

        def log_message(self, *arguments: object) -> None:
            pass

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError, ValueError):
                super().handle_one_request()
                return
            self.close_connection = True

    return Handler


@pytest.fixture
def members() -> Iterator[list[Member]]:
    made = [Member(f"member-{number}") for number in (1, 2, 3)]
    yield made
    for member in made:
        member.stop_listening()


@pytest.fixture
def url(members: list[Member], tmp_path: Path) -> Iterator[str]:
    with proxied([member.address for member in members], tmp_path / "haproxy.log") as found:
        yield found


def one(url: str, path: str = ACTION, body: bytes = b"{}") -> httpx.Response:
    """One request on a connection of its own."""
    # Without certificates, which take longer to read than all the rest.
    return httpx.post(url + path, content=body, timeout=30, trust_env=False, verify=False)


def answering(url: str, count: int = 9) -> Counter[str]:
    """Which members answer requests on connections of their own, and how often."""
    return Counter(one(url).json()["member"] for _ in range(count))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_connections_are_spread_in_turn(url: str) -> None:
    assert answering(url) == {"member-1": 3, "member-2": 3, "member-3": 3}


def test_requests_of_a_connection_stay_with_their_member(url: str) -> None:
    for _ in range(3):
        with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=600) as client:
            assert len({client.post(ACTION, json={}).json()["member"] for _ in range(20)}) == 1


def test_a_connection_outlives_its_member(url: str, members: list[Member]) -> None:
    with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=600) as client:
        first = client.post(ACTION, json={}).json()["member"]
        by_name = {member.name: member for member in members}
        by_name[first].ready = False
        until(lambda: client.post(ACTION, json={}).json()["member"] != first)
        assert {client.post(ACTION, json={}).status_code for _ in range(20)} == {200}


def test_a_member_that_is_not_ready_gets_nothing_until_it_is(url: str, members: list[Member]) -> None:
    members[1].ready = False
    until(lambda: answering(url).keys() == {"member-1", "member-3"})
    members[1].ready = True
    until(lambda: answering(url).keys() == {"member-1", "member-2", "member-3"})


def test_where_none_is_ready_those_that_are_alive_serve(url: str, members: list[Member]) -> None:
    for member in members:
        member.ready = False
    members[0].alive = False
    until(lambda: answering(url).keys() == {"member-2", "member-3"})
    members[0].ready = True
    until(lambda: answering(url).keys() == {"member-1"})


def test_where_none_is_alive_the_proxy_says_so(url: str, members: list[Member]) -> None:
    for member in members:
        member.ready = member.alive = False
    until(lambda: one(url).status_code == 503)


def test_a_request_to_a_member_that_has_gone_is_answered_by_another(url: str, members: list[Member]) -> None:
    """Before its check has noticed, and whatever the request: it was never sent."""
    members[0].stop_listening()
    members[1].stop_listening()
    for path in (ACTION, "/admin/policies/p/rollback", "/v1/policies/p/sessions"):
        assert {one(url, path).json()["member"] for _ in range(3)} == {"member-3"}


def test_two_that_go_at_once_cost_no_request_of_many(url: str, members: list[Member]) -> None:
    """Each of which may meet both of them in turn before their checks have noticed, which takes two of them."""
    until(lambda: all(member.checked["/readyz"] for member in members))
    members[0].stop_listening()
    members[1].stop_listening()
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: one(url), range(200)))
    assert {answer.status_code for answer in answers} == {200}


def test_members_too_busy_for_their_checks_still_serve(url: str, members: list[Member], tmp_path: Path) -> None:
    for member in members:
        member.busy_s = 1.1
    until(lambda: "backend ready has no server available" in (tmp_path / "haproxy.log").read_text())
    before = [member.checked["/livez"] for member in members]
    until(lambda: all(member.checked["/livez"] > count for member, count in zip(members, before, strict=True)))
    assert answering(url).keys() == {"member-1", "member-2", "member-3"}


@pytest.mark.parametrize("path", [ACTION, "/action", "/distribution", "/v1/policies/p/get_initial_state"])
def test_what_may_be_repeated_is_asked_of_another_member(url: str, members: list[Member], path: str) -> None:
    for member in members[:2]:
        member.silent = 1
    assert one(url, path, b"x" * 10_000).json()["bytes"] == 10_000
    for _ in range(2):
        assert one(url, path).status_code == 200
    assert sum(len(member.asked) for member in members) in (4, 5)


@pytest.mark.parametrize(
    "path",
    [
        "/admin/policies/p/rollback",
        "/admin/policies/p/reload",
        "/v1/policies/p/sessions",
        "/sessions",
        "/v1/policies/p/sessions/env-7/action",
        "/v1/policies/p/sessions/action/action",
        "/sessions/env-7/action",
    ],
)
def test_what_may_not_be_repeated_is_sent_once(url: str, members: list[Member], path: str) -> None:
    for member in members:
        member.silent = 1
    assert one(url, path).status_code == 502
    assert [asked for member in members for asked in member.asked] == [f"POST {path}"]


def test_the_client_is_named(url: str) -> None:
    assert one(url).json()["for"] == "127.0.0.1"
