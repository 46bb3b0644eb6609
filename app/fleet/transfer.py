"""Files from another member: a graph or a version, by its digest, over HTTP as a tar. Blocks; called in a thread.

Whoever has received something gives it too, so that what is new spreads as a tree: a member gives to a few at a time,
and sends the others away.
"""

from __future__ import annotations

import random
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

import httpx

from app.errors import SwapRefused
from app.fleet.paths import PIECE_BYTES
from saver.artifact.publishing import publish, staged_folder

_PATIENCE_S = 5.0
# Everybody may be busy giving to others, or be gone.
_LONGEST_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_BUSY = "it gives to others now"


def fetch(
    urls: Callable[[], Iterable[str]], path: str, secret: str, destination: Path, accepts: Callable[[Path], bool]
) -> None:
    """Fetches a folder and publishes it at `destination`.

    Args:
      urls: returns those of the members that may have it, asked again for each round, and for each piece whether it
        goes on: what it raises ends the fetch.
      path: see `app.fleet.paths.files_path`.
      secret: the fleet's.
      destination: where it belongs; nothing is there but what is whole.
      accepts: whether what has arrived is what was wanted.

    Raises:
      SwapRefused: no member has given it.
    """
    until, pause_s = time.monotonic() + _LONGEST_S, _FIRST_PAUSE_S
    with httpx.Client(timeout=_PATIENCE_S, trust_env=False, headers={"Authorization": f"Bearer {secret}"}) as client:
        while True:
            asked = list(urls())
            random.shuffle(asked)
            reasons, busy = [], False
            for url in asked:
                urls()
                reason = _fetch_from(client, url + path, destination, urls, accepts)
                if not reason:
                    return
                reasons.append(f"{url}: {reason}")
                busy = busy or reason == _BUSY
            if not busy or time.monotonic() > until:
                raise SwapRefused(f"no member gives it: {'; '.join(reasons) or 'there is none'}", for_now=True)
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _while(urls: Callable[[], object], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the pieces, as long as `urls` raises nothing."""
    for piece in pieces:
        urls()
        yield piece


def _fetch_from(
    client: httpx.Client,
    url: str,
    destination: Path,
    urls: Callable[[], object],
    accepts: Callable[[Path], bool],
) -> str:
    """Returns why the member has not given it, "" where it has."""
    try:
        with client.stream("GET", url) as response:
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return _BUSY
            if response.status_code != httpx.codes.OK:
                return f"status {response.status_code}"
            with staged_folder(destination) as staged:
                _unpack(_while(urls, response.iter_raw(PIECE_BYTES)), staged)
                if not accepts(staged):
                    return "what it gave is not what was asked for"
                publish(staged, destination, sync=False)  # as the builder does: it is compared when it is read
    except (httpx.HTTPError, httpx.InvalidURL, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


def _unpack(pieces: Iterator[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=cast("IO[bytes]", _Reader(pieces)), mode="r|") as tar:
        tar.extractall(folder, filter="data")


class _Reader:
    """A file over pieces of bytes, as `tarfile` reads a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int) -> bytes:
        """Returns so many bytes, fewer at the end."""
        found = [self._left]
        length = len(self._left)
        while length < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            found.append(piece)
            length += len(piece)
        joined = b"".join(found)
        self._left = joined[size:]
        return joined[:size]
