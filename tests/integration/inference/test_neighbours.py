"""Clients that cancel, dawdle, send nonsense or poison: nobody beside them notices."""

import contextlib
import json
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import numpy as np

from tests.integration.inference.test_bad_input import GOOD
from tests.integration.inference.test_fast_path import head_of, post
from tests.support.server import RunningServer

PATH = "/v1/policies/cartpole/action"


def connection(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.http.base_url.port), timeout=600)


def leaves_at_once(server: RunningServer, draw: random.Random) -> None:
    with connection(server) as one:
        one.sendall(post(PATH, json.dumps({"observation": [GOOD] * draw.randint(1, 50)}).encode()))


def leaves_in_the_middle(server: RunningServer, draw: random.Random) -> None:
    whole = post(PATH, json.dumps({"observation": GOOD}).encode())
    with connection(server) as one:
        one.sendall(whole[: draw.randrange(1, len(whole))])


def dawdles(server: RunningServer, draw: random.Random) -> None:
    with connection(server) as one:
        for byte in head_of(PATH, 40)[: draw.randint(1, 60)]:
            one.sendall(bytes([byte]))


def never_reads(server: RunningServer, draw: random.Random) -> None:
    with connection(server) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(post(PATH, json.dumps({"observation": [GOOD] * 500}).encode()) * 4)


def sends_nonsense(server: RunningServer, draw: random.Random) -> None:
    with connection(server) as one:
        one.sendall(post(PATH, draw.randbytes(40)) + draw.randbytes(40))


def is_refused(server: RunningServer, draw: random.Random) -> None:
    body = draw.choice([[1, 2, 3], [GOOD, [1]], [1, 2, 3, 1e39], [1, 2, "x", 4]])
    answer = httpx.post(server.url + PATH, json={"observation": body}, trust_env=False, timeout=600)
    assert answer.status_code == 422, answer.text


def poisons(server: RunningServer, draw: random.Random) -> None:
    """NaN among good rows: in JSON's own way of not having it, and in raw bytes."""
    rows = np.full((3, 4), 0.1, np.float32)
    rows[draw.randrange(3), draw.randrange(4)] = draw.choice([np.nan, np.inf])
    tensor = {"dtype": "float32", "shape": [3, 4], "data": rows.tobytes()}
    for content, kind in (
        (msgspec.msgpack.encode({"observation": tensor}), "application/msgpack"),
        (json.dumps({"observation": rows.tolist()}).encode(), "application/json"),
    ):
        answer = httpx.post(
            server.url + PATH, content=content, headers={"Content-Type": kind}, trust_env=False, timeout=600
        )
        assert answer.status_code == 422, answer.text


ODD = [leaves_at_once, leaves_in_the_middle, dawdles, never_reads, sends_nonsense, is_refused, poisons]


def play(kind: Callable[[RunningServer, random.Random], None], server: RunningServer, draw: random.Random) -> None:
    with contextlib.suppress(ConnectionError):  # the server may close what is nonsense
        kind(server, draw)


def test_odd_clients_harm_nobody(server: RunningServer, full: bool) -> None:
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    expected = server.http.post(PATH, json={"observation": observations.tolist()}).raise_for_status().json()["action"]
    draw = random.Random(0)
    with ThreadPoolExecutor(len(ODD)) as pool:
        for turn in range(2000 if full else 100):
            around = [pool.submit(play, kind, server, random.Random(draw.random())) for kind in ODD]
            for row in (turn % 20, (turn + 7) % 20):
                answer = server.http.post(PATH, json={"observation": observations[row].tolist()})
                assert (answer.status_code, answer.json().get("action")) == (200, expected[row])
            for one in around:
                one.result()
    assert 'status="500"' not in server.http.get("/metrics").text
