"""Requests that take the fast path get what the framework would answer, byte for byte; and HTTP stays HTTP."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.integration.inference.test_bad_input import BODY, CAMERA, GOOD, UNFIT
from tests.support.server import RunningServer

GOOD_ONES = [
    ("cartpole", "action", {"observation": GOOD}),
    ("cartpole", "action", {"observation": [GOOD, GOOD]}),
    ("cartpole", "action", {"arg_0_observation": GOOD, "reward": 1}),
    ("cartpole", "action", {"observation": GOOD, "options": {"mode": "greedy"}}),
    ("cartpole", "action", {"observation": GOOD, "options": {"min_train_step": 10**6, "timeout_ms": 1}}),
    ("cartpole", "distribution", {"observation": [GOOD, GOOD]}),
    ("cartpole", "get_initial_state", {}),
    ("cartpole", "get_initial_state", {"batch_size": 0}),
    ("nested", "action", {"observation": {"camera": CAMERA, "body": BODY}}),
    ("recurrent", "action", {"observation": GOOD}),
    ("recurrent", "action", {"observation": GOOD, "policy_state": [[0.25] * 8, [0.5] * 8]}),
    ("recurrent", "get_initial_state", {"batch_size": 2}),
]
UNFIT_ONES = [(policy, "action", body) for policy, body, *_ in UNFIT]


def head_of(path: str, length: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    return head_of(path, len(body), *headers) + body


class Connection:
    """One connection, read answer by answer."""

    def __init__(self, server: RunningServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.http.base_url.port), timeout=600)
        self.rest = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[bytes, bytes]:
        """(head, body) of the next answer."""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self._some()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        wanted = int(length[1]) if length else 0
        while len(self.rest) < wanted:
            self.rest += self._some()
        body, self.rest = self.rest[:wanted], self.rest[wanted:]
        return re.sub(rb"date: [^\r]*", b"date", head), body

    def _some(self) -> bytes:
        data = self.socket.recv(1 << 16)
        assert data, "closed"
        return data

    def ended(self) -> bool:
        """Whether the server closes the connection."""
        return not self.rest and self.socket.recv(1) == b""


@contextlib.contextmanager
def connected(server: RunningServer) -> Iterator[Connection]:
    connection = Connection(server)
    with connection.socket:
        yield connection


def action(server: RunningServer) -> dict:
    return server.http.post("/action", json={"observation": GOOD}).raise_for_status().json()


@pytest.mark.parametrize(("policy", "route", "fields"), GOOD_ONES + UNFIT_ONES)
def test_both_ways_answer_alike(server: RunningServer, policy: str, route: str, fields: dict) -> None:
    body, path = json.dumps(fields).encode(), f"/v1/policies/{policy}/{route}"
    with connected(server) as connection:
        connection.send(post(path, body))
        fast = connection.answer()
        connection.send(post(path + "?", body))  # a path that the fast path does not know
        assert connection.answer() == fast


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"observation": [1, 2, 3, NaN]}', b'{"observation": "\xff"}'])
def test_both_ways_refuse_alike_what_is_no_json(server: RunningServer, body: bytes) -> None:
    with connected(server) as connection:
        for path in ("/action", "/action?"):
            connection.send(post(path, body))
        fast, framework = connection.answer(), connection.answer()
        assert fast == framework


@pytest.mark.parametrize(
    "header", ["Content-Type: text/html", "Content-Type: APPLICATION/JSON; charset=utf-8", "Content-Type: text/json"]
)
def test_media_types_mean_the_same_on_both_ways(server: RunningServer, header: str) -> None:
    body = json.dumps({"observation": GOOD}).encode()
    with connected(server) as connection:
        connection.send(post("/action", body, header))
        connection.send(post("/action?", body, header))
        assert connection.answer() == connection.answer()


def test_requests_sent_ahead_are_answered_in_their_order(server: RunningServer) -> None:
    with connected(server) as connection:
        sizes = [1, 2, 3, 4, 5]
        connection.send(b"".join(post("/action", json.dumps({"observation": [GOOD] * n}).encode()) for n in sizes))
        assert [len(json.loads(connection.answer()[1])["action"]) for _ in sizes] == sizes


def test_both_ways_take_turns_on_one_connection(server: RunningServer) -> None:
    body = json.dumps({"observation": GOOD}).encode()
    get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(server) as connection:
        for _ in range(3):
            for request, wanted in ((post("/action", body), action(server)), (get, {"status": "alive"})):
                connection.send(request)
                assert json.loads(connection.answer()[1]) == wanted
        connection.send(post("/action", body) + get + post("/action", body))
        assert [json.loads(connection.answer()[1]).keys() for _ in range(3)] == [
            action(server).keys(),
            {"status"},
            action(server).keys(),
        ]


def test_a_request_may_come_byte_by_byte(server: RunningServer) -> None:
    with connected(server) as connection:
        for byte in post("/action", json.dumps({"observation": GOOD}).encode()):
            connection.send(bytes([byte]))
        assert json.loads(connection.answer()[1]) == action(server)


def test_a_body_may_come_in_chunks_and_only_when_it_was_asked_for(server: RunningServer) -> None:
    body = json.dumps({"observation": GOOD}).encode()
    with connected(server) as connection:
        head = b"POST /action HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert json.loads(connection.answer()[1]) == action(server)
        connection.send(head_of("/action", len(body), "Expect: 100-continue"))
        assert connection.answer()[0] == b"HTTP/1.1 100 Continue"
        connection.send(body)
        assert json.loads(connection.answer()[1]) == action(server)


def test_a_connection_is_closed_for_those_who_want_it(server: RunningServer) -> None:
    body = json.dumps({"observation": GOOD}).encode()
    old = b"POST /action HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for request in (post("/action", body, "Connection: close"), old):
        with connected(server) as connection:
            connection.send(request)
            assert json.loads(connection.answer()[1]) == action(server)
            assert connection.ended()


def test_a_client_that_goes_away_in_the_middle_of_a_body_harms_nobody(server: RunningServer) -> None:
    for _ in range(20):
        with connected(server) as connection:
            connection.send(head_of("/action", 100) + b'{"observation"')
    assert action(server)["version"] == "export"


def test_what_is_no_http_is_refused_and_closed(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.send(b"POST /action HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        assert connection.answer()[0].startswith(b"HTTP/1.1 400")
        assert connection.ended()


def test_a_body_that_is_announced_too_long_is_refused_unread(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.send(head_of("/action", 2**40))
        assert connection.answer()[0].startswith(b"HTTP/1.1 413")
