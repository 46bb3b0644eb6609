"""Requests for several policies at the same moment: each connection gets its own answers, in its own order."""

import contextlib
import http.client
import json
import random
import socket
from typing import Any

from tests.support.requests import next_answer
from tests.support.server import RunningServer

POLICIES = ("cartpole", "boltzmann", "continuous", "unnested")
CONNECTIONS, ROUNDS = 24, 20


def request(policy: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/policies/{policy}/action HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + content


def test_each_connection_gets_the_answer_to_its_own_request(server: RunningServer) -> None:
    draw = random.Random(3)
    bodies = [{"observation": [draw.uniform(-0.2, 0.2) for _ in range(4)], "options": {"seed": 5}} for _ in range(8)]
    expected = {
        (policy, number): server.http.post(f"/v1/policies/{policy}/action", json=body).json()
        for policy in POLICIES
        for number, body in enumerate(bodies)
    }
    with contextlib.ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        connections = [
            stack.enter_context(contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=600)))
            for _ in range(CONNECTIONS)
        ]
        for _ in range(ROUNDS):
            asked = [(draw.choice(POLICIES), draw.randrange(len(bodies))) for _ in connections]
            for connection, (policy, number) in zip(connections, asked, strict=True):
                connection.request("POST", f"/v1/policies/{policy}/action", json.dumps(bodies[number]))
            answers = [json.loads(connection.getresponse().read()) for connection in connections]
            assert answers == [expected[one] for one in asked]


def test_what_is_sent_ahead_on_one_connection_is_answered_in_its_order(server: RunningServer) -> None:
    draw = random.Random(4)
    bodies = [{"observation": [draw.uniform(-0.2, 0.2) for _ in range(4)], "options": {"seed": 6}} for _ in range(4)]
    asked = [(draw.choice(POLICIES), draw.choice(bodies)) for _ in range(120)]
    host, port = server.url.removeprefix("http://").split(":")
    found, data = [], b""
    with socket.create_connection((host, int(port)), 600) as connection:
        connection.sendall(b"".join(request(policy, body) for policy, body in asked))
        while len(found) < len(asked):
            while (read := next_answer(data, to_head=False)) is None:
                data += connection.recv(1 << 16)
            answer, data = read
            found.append(json.loads(answer.body))
    assert found == [server.http.post(f"/v1/policies/{policy}/action", json=body).json() for policy, body in asked]
