"""The audit log: who, what, and how it ended, and nothing that a client could slip in."""

import re
import socket
from pathlib import Path

import pytest

from tests.support.server import RunningServer, serving
from tests.support.steady import until

LINE = re.compile(r"\S+ \S+ INFO policy_server\.audit: (\S+) (\S+) from (\S+): (\d+|no answer) after \d+ ms")


def audited(server: RunningServer, count: int) -> list[tuple[str, ...]]:
    """What the lines say; any other line of the audit log is an error."""
    until(lambda: len([line for line in server.lines if "policy_server.audit" in line]) >= count, f"{count} lines")
    found = [LINE.fullmatch(line) for line in server.lines if "policy_server.audit" in line]
    assert len(found) == count
    assert all(found), server.lines
    return [match.groups() for match in found if match]


def raw(server: RunningServer, path: str) -> None:
    """A request as no client library would send it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 600) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while connection.recv(4096):
            pass


def test_each_admin_call_is_one_line_with_its_outcome(exports: Path, warm: tuple[str, str]) -> None:
    forged = {"X-Forwarded-For": "1.2.3.4"}
    with serving({"cartpole": exports / "cartpole"}, *warm, prepared=True) as server:
        root = "/admin/policies"
        server.admin.post(f"{root}/cartpole/reload", headers=forged)
        server.admin.post(f"{root}/cartpole/reload", json={"checkpoint": "none"})
        server.http.post(f"{root}/cartpole/rollback", headers=forged)
        server.admin.get(f"{root}/nobody/versions")
        server.admin.get(f"{root}/cartpole/reload")
        server.admin.put(f"{root}/cartpole/checkpoints/x", content=b"no tar")
        server.admin.get("/admin")
        raw(server, f"{root}/%0a2026%20INFO%20policy_server.audit:%20POST%20/x%20from%201.1.1.1:%20200/reload")
        raw(server, f"{root}/%e2%80%a8%1b[31m%22%c2%85%ff/reload")
        raw(server, "/admin/%75%73er from".replace(" ", "%20"))
        lines = audited(server, 10)
    assert {client for _, _, client, _ in lines} == {"127.0.0.1"}
    assert [(method, status) for method, _, _, status in lines] == [
        ("POST", "200"),
        ("POST", "404"),
        ("POST", "401"),
        ("GET", "404"),
        ("GET", "405"),
        ("PUT", "422"),
        ("GET", "404"),
        ("POST", "404"),
        ("POST", "401"),
        ("POST", "404"),
    ]
    assert "%0A2026%20INFO" in lines[7][1]
    assert "%E2%80%A8%1B[31m%22%C2%85" in lines[8][1]
    assert lines[9][1] == "/admin/user%20from"


@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.0/8,127.0.0.0/8", "*", "10.0.0.1"])
def test_who_a_proxy_says_counts_where_the_proxy_is_trusted(exports: Path, warm: tuple[str, str], trusted: str) -> None:
    with serving({"cartpole": exports / "cartpole"}, *warm, "--trusted-proxies", trusted, prepared=True) as server:
        server.http.post("/admin/policies/p/reload", headers={"X-Forwarded-For": "192.0.2.7"})
        ((_, _, client, _),) = audited(server, 1)
    assert client == ("127.0.0.1" if trusted == "10.0.0.1" else "192.0.2.7")
