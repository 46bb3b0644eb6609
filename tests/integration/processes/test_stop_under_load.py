"""A server that is stopped while many ask: whatever was sent by then is answered, on whatever connection."""

import http.client
import json
import random
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until

CLIENTS = 24
PATHS = "/action", "/action?", "/v1/policies/p/action"  # the fast path and the framework's
ANSWERED = "answered"


@dataclass(frozen=True)
class Sent:
    """A request: when the last byte of it was handed to the system, and what came of it when."""

    at: float
    answered_at: float
    outcome: str
    kept_alive: bool


class Client(threading.Thread):
    """Asks until nobody listens, on one connection or on a new one each time. Each request has a mark of its own."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.sent: list[Sent] = []
        self._address = "127.0.0.1", port
        self._keeps_alive, self._path = number % 2 == 0, PATHS[number % len(PATHS)]
        self._mark = 1000 * number

    def run(self) -> None:
        while True:
            try:
                connection = socket.create_connection(self._address, 60)
            except OSError:
                return
            with connection:
                while self._ask(connection) and self._keeps_alive:
                    pass

    def _ask(self, connection: socket.socket) -> bool:
        """Whether the connection goes on."""
        self._mark += 1
        body = b'{"observation": [%d, 0, 0, 0]}' % (self._mark % 1000)
        head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            connection.sendall(head.encode() + body)
        except OSError:
            return False  # it was not sent
        at = time.monotonic()
        closes = True
        try:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            closes, content = bool(answer.will_close), answer.read()
            right = answer.status == 200 and json.loads(content)["action"][0] % 1000 == self._mark % 1000
            outcome = ANSWERED if right else f"{answer.status} {content[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        self.sent.append(Sent(at, time.monotonic(), outcome, self._keeps_alive))
        return not closes


def asked(clients: list[Client]) -> int:
    return sum(len(client.sent) for client in clients)


def stop_under_load(server: RunningServer, more: int) -> tuple[float, list[Sent]]:
    """Stops it once all clients have an answer, and `more` came; returns when that was, and all that was sent."""
    clients = [Client(int(server.url.rpartition(":")[2]), number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    until(lambda: all(client.sent for client in clients), "an answer for everybody")
    goal = asked(clients) + more
    until(lambda: asked(clients) >= goal, "more answers")
    asked_at = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    for client in clients:
        client.join()
    assert not any("Traceback" in line for line in server.lines)
    return asked_at, [one for client in clients for one in client.sent]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.only_full), 2])
def test_what_was_sent_before_the_stop_is_answered(tmp_path: Path, full: bool, workers: int) -> None:
    trainer = NumberTrainer(tmp_path / "p")
    options = ("--no-watch", "--workers", str(workers), "--state-dir", str(tmp_path / "state"))
    stops, draw = 50 if full else 2, random.Random(workers)
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    waited = 0
    for _ in range(stops):
        with serving({"p": trainer.folder}, *options, prepared=True) as server:
            asked_at, sent = stop_under_load(server, draw.randrange(1, 200))
        for one in sent:
            kind = "kept alive" if one.kept_alive else "new"
            (before if one.at < asked_at else after)[f"{kind}: {one.outcome}"] += 1
            waited += one.at < asked_at < one.answered_at
    print(
        f"{workers} workers, {stops} stops, {CLIENTS} clients. Sent before: {dict(before)}, of which {waited} had no "
        f"answer yet; after: {dict(after)}"
    )
    assert waited > stops
    assert {kind.partition(": ")[2] for kind in before} == {ANSWERED}
