"""Uploads that would never end or unpack to anything: refused early, and nothing of them stays."""

import io
import itertools
import json
import os
import select
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from app.memory import resident_bytes
from tests.integration.swaps.bad_checkpoints.scenario import (
    SHARD,
    UPLOAD_LIMIT,
    Scenario,
)
from tests.support.server import ADMIN_TOKEN, RunningServer
from tests.support.steady import until


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **extended: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, extended
    return info.tobuf(tarfile.PAX_FORMAT if extended else tarfile.GNU_FORMAT)


def whole_tar(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, ".")
    return file.getvalue()


ZEROS = bytes(1 << 16)
TEBIBYTES = 2 << 40
Body = Callable[[Path], Iterable[bytes]]

# Name → what is sent, the status, and what the answer names. Most of them would never end.
BOMBS: dict[str, tuple[Body, int, str]] = {
    "promises 2 TiB": (
        lambda _: itertools.chain([header("variables/x", TEBIBYTES)], itertools.repeat(ZEROS)),
        413,
        str(TEBIBYTES),
    ),
    "promises 2 TiB in an extended header": (
        lambda _: itertools.chain(
            [header("variables/x", size=str(TEBIBYTES))],
            itertools.repeat(ZEROS),
        ),
        413,
        str(TEBIBYTES),
    ),
    "never ends after its end": (
        lambda good: itertools.chain([whole_tar(good)], itertools.repeat(ZEROS)),
        413,
        str(UPLOAD_LIMIT),
    ),
    "many files": (
        lambda _: (header(f"variables/{number}") for number in itertools.count()),
        422,
        "is member 257",
    ),
    "many folders": (
        lambda _: (header(f"variables/{number}", kind=tarfile.DIRTYPE) for number in itertools.count()),
        422,
        "is member 257",
    ),
    "many extended headers": (
        lambda _: (header("x", kind=tarfile.XHDTYPE) for _ in itertools.count()),
        422,
        "has header 1025",
    ),
    "an extended header of 1 GiB": (
        lambda _: itertools.chain([header("x", 1 << 30, tarfile.XHDTYPE)], itertools.repeat(ZEROS)),
        422,
        str(1 << 30),
    ),
    "a name of 1 GiB": (
        lambda _: itertools.chain([header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME)], itertools.repeat(ZEROS)),
        422,
        str(1 << 30),
    ),
    "a file ten thousand folders deep": (
        lambda _: itertools.chain([header("a/" * 10_000 + "x")], itertools.repeat(ZEROS)),
        422,
        "is no file of a checkpoint",
    ),
    "sparse, of 2 TiB": (
        lambda _: itertools.chain([header("variables/x", 512, tarfile.GNUTYPE_SPARSE)], itertools.repeat(ZEROS)),
        422,
        "is a sparse file",
    ),
    "sparse by an extended header": (
        lambda _: itertools.chain(
            [header("variables/x", **{"GNU.sparse.realsize": str(TEBIBYTES), "GNU.sparse.major": "1"})],
            itertools.repeat(ZEROS),
        ),
        422,
        "is a sparse file",
    ),
    "a link that leads outside": (
        lambda _: itertools.chain([header(SHARD, kind=tarfile.SYMTYPE)], itertools.repeat(ZEROS)),
        422,
        "is a link",
    ),
    "a hard link": (
        lambda _: itertools.chain([header(SHARD, kind=tarfile.LNKTYPE)], itertools.repeat(ZEROS)),
        422,
        "is a link",
    ),
    "packed": (lambda _: itertools.chain([b"\x1f\x8b" + ZEROS], itertools.repeat(ZEROS)), 422, "uncompressed tar"),
}


def flood(server: RunningServer, name: str, parts: Iterable[bytes]) -> tuple[int, dict[str, Any], int]:
    """PUTs `parts` in chunks until there is an answer: (status, its problem, bytes sent)."""
    host, port = server.url.removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port)), 20) as connection:
        start = f"PUT /admin/policies/p/checkpoints/{name}?activate=true HTTP/1.1\r\nHost: x\r\n"
        how = f"Authorization: Bearer {ADMIN_TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall((start + how).encode())
        for part in parts:
            if select.select([connection], [], [], 0)[0]:
                break
            try:
                connection.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                break  # it has been answered
            sent += len(part)
            assert sent < 20 * UPLOAD_LIMIT, "it reads and reads"
        head, _, body = read_answer(connection).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), sent


def read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}") and (part := connection.recv(1 << 16)):
        answer += part
    return answer


def bytes_below(folder: Path) -> int:
    """What the files below take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", BOMBS)
def test_a_tar_bomb_is_refused_early_and_fills_nothing(scenario: Scenario, kind: str) -> None:
    body, status, names = BOMBS[kind]
    good = scenario.written(scenario.next_name("bomb"), "ours")
    before = (
        sorted(os.listdir(scenario.checkpoints)),
        bytes_below(scenario.checkpoints),
        resident_bytes(scenario.server.process.pid),
    )
    answered, problem, sent = flood(scenario.server, good.name, body(good))
    assert (answered, problem["status"]) == (status, status), problem
    assert names in problem["detail"]
    assert len(problem["detail"]) < 600
    assert sent < UPLOAD_LIMIT + (16 << 20), "what lies in the sockets' buffers, and no more"
    until(lambda: sorted(os.listdir(scenario.checkpoints)) == before[0], "nothing left behind")
    assert bytes_below(scenario.checkpoints) == before[1]
    assert resident_bytes(scenario.server.process.pid) < before[2] + (64 << 20)
    assert scenario.row(good.name) is None
    scenario.check_unchanged()
    shutil.rmtree(good)
