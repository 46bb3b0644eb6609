"""How a member gives files to another: where, and in which form."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

PIECE_BYTES = 2**20
# Beside the two kinds of app/artifacts/bundle.py, which go by their digests.
CHECKPOINTS = "checkpoints"
FILES_PATH = "/fleet/policies/{policy}/{kind}/{name}"
RELOAD_PATH = "/fleet/policies/{policy}/{what}"
UPLOADS_PATH = "/fleet/policies/{policy}/uploads/{name}"


def files_path(policy: str, kind: str, name: str) -> str:
    """Returns the path at which a member gives a folder."""
    return FILES_PATH.format(policy=policy, kind=kind, name=name)


def reload_path(policy: str, what: str) -> str:
    """Returns the path at which a member is asked to `find` a checkpoint in its folder, or to `reload` it."""
    return RELOAD_PATH.format(policy=policy, what=what)


def upload_path(policy: str, name: str) -> str:
    """Returns the path at which a member hears of a checkpoint that was uploaded to another one."""
    return UPLOADS_PATH.format(policy=policy, name=name)


def tar_of(folder: Path) -> Iterator[bytes]:
    """Yields the files of a folder as a tar, in pieces; blocks.

    Raises:
      OSError: a file is gone: what was given so far is no whole tar.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        info = tarfile.TarInfo(path.relative_to(folder).as_posix())
        with path.open("rb") as file:
            info.size = path.stat().st_size
            yield info.tobuf(tarfile.PAX_FORMAT)
            left = info.size
            while left:
                piece = file.read(min(PIECE_BYTES, left))
                if not piece:
                    raise OSError(f"{path} has become shorter")
                left -= len(piece)
                yield piece
        if info.size % tarfile.BLOCKSIZE:
            yield bytes(tarfile.BLOCKSIZE - info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
