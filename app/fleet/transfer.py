"""Files from another member: a graph or a version, by its digest, over HTTP: see `stream`. Blocks; called in a thread.

Whoever has received something gives it too, so that what is new spreads as a tree: a member gives to a few at a time,
and sends the others away.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx

from app.errors import SwapRefused
from app.fleet.paths import MACHINE_HEADER, machine
from app.fleet.stream import JSON, MOST_LISTED_BYTES, NotWhole, link_files, write_stream
from saver.artifact.publishing import publish, staged_folder

T = TypeVar("T")
_PATIENCE_S = 5.0
# A member that gives less than a piece (or the head) in so long gives nothing: a byte now and then is no progress.
_PIECE_S = 15.0
# Everybody may be busy giving to others, or be gone.
_LONGEST_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_BUSY = "it gives to others now"
# Where it has arrived, and the sha256 of each file → whether it is what was wanted.
Accepts = Callable[[Path, Mapping[str, str]], bool]


@dataclass(frozen=True)
class Wanted:
    """A folder that members may have.

    Args:
      path: see `app.fleet.paths.files_path`.
      secret: the fleet's.
      destination: where it belongs; nothing is there but what is whole.
      accepts: whether what has arrived is what was wanted.
      linked: whether its files may be the same as another member's on this machine: nobody writes to them while they
        are there.
    """

    path: str
    secret: str = field(repr=False)
    destination: Path
    accepts: Accepts
    linked: bool = False


class _Answer(NamedTuple):
    """What a member gives, and what is called for each piece of it."""

    response: http.client.HTTPResponse
    came: Callable[[], None]


def fetch(urls: Callable[[], Iterable[str]], wanted: Wanted) -> Mapping[str, str]:
    """Fetches a folder and publishes it; returns the sha256 (hex) of each file.

    Args:
      urls: returns those of the members that may have it, in the order in which they are asked; again for each round,
        and for each piece whether it goes on: what it raises ends the fetch.
      wanted: what, and where it belongs.

    Raises:
      SwapRefused: no member has given it.
      OSError: it cannot be stored.
    """
    until, pause_s = time.monotonic() + _LONGEST_S, _FIRST_PAUSE_S
    while True:
        reasons, busy, unstored = [], False, None
        for url in list(urls()):
            urls()
            try:
                return _fetch_from(url, wanted, urls)
            except NotWhole as refusal:
                reasons.append(f"{url}: {refusal}")
                busy = busy or str(refusal) == _BUSY
            except OSError as error:  # or it claims to give more than anybody has room for
                unstored = error
        if unstored is not None:
            try:
                raise unstored
            finally:
                unstored = None  # it would keep this frame, and what is open in it, until they are collected
        if not busy or time.monotonic() > until:
            raise SwapRefused(f"no member gives it: {'; '.join(reasons) or 'there is none'}", for_now=True)
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _fetch_from(url: str, wanted: Wanted, urls: Callable[[], object]) -> Mapping[str, str]:
    try:
        if wanted.linked and (here := machine()):
            with _response(url, wanted, {MACHINE_HEADER: here}) as answer:
                if answer.response.headers.get_content_type() != JSON:
                    return _received(answer, wanted, urls)
                with contextlib.suppress(OSError, NotWhole):
                    return _linked(answer, wanted)
        with _response(url, wanted, {}) as answer:
            return _received(answer, wanted, urls)
    except (http.client.HTTPException, ValueError) as error:
        raise NotWhole(str(error) or type(error).__name__) from None


def _connection_to(url: str) -> tuple[http.client.HTTPConnection, str]:
    """Returns a connection that is not made yet, and what comes before all paths there."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise NotWhole("it is at no URL")
    if parts.scheme == "https":
        context = httpx.create_ssl_context(trust_env=False)
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_PATIENCE_S, context=context), parts.path
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_PATIENCE_S), parts.path


@contextlib.contextmanager
def _response(url: str, wanted: Wanted, headers: Mapping[str, str]) -> Iterator[_Answer]:
    """Gives what a member answers that does not refuse."""
    connection, path = _connection_to(url)

    def ask() -> http.client.HTTPResponse:
        connection.request("GET", path + wanted.path, headers={"Authorization": f"Bearer {wanted.secret}", **headers})
        return connection.getresponse()

    with contextlib.closing(connection):
        _of_network(connection.connect)
        with _watched(connection.sock) as came:
            response = _of_network(ask)
            came()
            if response.status == http.client.SERVICE_UNAVAILABLE:
                raise NotWhole(_BUSY)
            if response.status != http.client.OK:
                raise NotWhole(f"status {response.status}")
            yield _Answer(response, came)


@contextlib.contextmanager
def _watched(connection: socket.socket) -> Iterator[Callable[[], None]]:
    """Gives what is called for each piece that has come, and ends the connection where that is not in time."""
    until, over = time.monotonic() + _PIECE_S, threading.Event()

    def came() -> None:
        nonlocal until
        until = time.monotonic() + _PIECE_S

    def watch() -> None:
        while not over.wait(max(0.0, until - time.monotonic())):
            if time.monotonic() >= until:
                with contextlib.suppress(OSError):  # it has ended by itself
                    connection.shutdown(socket.SHUT_RDWR)
                return

    threading.Thread(target=watch, name="fleet transfer", daemon=True).start()
    try:
        yield came
    finally:
        over.set()


def _linked(answer: _Answer, wanted: Wanted) -> Mapping[str, str]:
    """Takes the files of a member on this machine as they are; raises OSError where they cannot be had."""
    given = json.loads(_of_network(lambda: answer.response.read(MOST_LISTED_BYTES)))
    answer.came()
    with staged_folder(wanted.destination) as staged:
        hashes = link_files(given, staged)
        _publish(staged, wanted, hashes)
    return hashes


def _of_network(ask: Callable[[], T]) -> T:
    """Returns what `ask` returns: its OSError is the other member's, and not the disk's."""
    try:
        return ask()
    except OSError as error:
        raise NotWhole(str(error) or type(error).__name__) from None


def _received(answer: _Answer, wanted: Wanted, urls: Callable[[], object]) -> Mapping[str, str]:
    """Puts what a member gives in its place; returns the sha256 (hex) of each file."""
    response, came = answer
    length = response.length
    if length is None:
        raise NotWhole("it does not say how much it gives")

    def read(room: memoryview) -> int:
        urls()
        came()  # it may have taken long to write the piece before
        return _of_network(lambda: response.readinto(room))

    with staged_folder(wanted.destination) as staged:
        if length > shutil.disk_usage(staged).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        hashes = write_stream(read, length, staged)
        _publish(staged, wanted, hashes)
    return hashes


def _publish(staged: Path, wanted: Wanted, hashes: Mapping[str, str]) -> None:
    if not wanted.accepts(staged, hashes):
        raise NotWhole("what it gave is not what was asked for")
    publish(staged, wanted.destination, sync=False)  # as the builder does: it is compared when it is read
