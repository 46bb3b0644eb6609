"""How a member gives files to another: where, and in which form."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

PIECE_BYTES = 2**20
# `kind`: one of the two of app/artifacts/bundle.py.
FILES_PATH = "/fleet/policies/{policy}/{kind}/{digest}"


def files_path(policy: str, kind: str, digest: str) -> str:
    """Returns the path at which a member gives a folder."""
    return FILES_PATH.format(policy=policy, kind=kind, digest=digest)


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
