"""A checkpoint's folder → a running server, as a tar that is made while it is sent. By the standard library alone.

The admin token comes from POLICY_SERVER_ADMIN_TOKEN, and that of the data routes, where they need one, from
POLICY_SERVER_DATA_TOKEN: a command line is for all to see.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from saver.artifact import CHECKPOINT_FILE, GRAPH_FILE, is_name
from saver.connection import Answer, Unreachable, ask

ADMIN_TOKEN = "POLICY_SERVER_ADMIN_TOKEN"  # noqa: S105 — the variable's name
DATA_TOKEN = "POLICY_SERVER_DATA_TOKEN"  # noqa: S105
_PIECE_BYTES = 1 << 18


class PushError(Exception):
    """The checkpoint was not stored; the message is one line for the person who pushed it."""


@dataclass(frozen=True)
class Target:
    """A server's address, and a policy's name in it; None for the default one."""

    url: str
    policy: str | None


def push(
    folder: Path,
    url: str,
    env: Mapping[str, str],
    *,
    name: str | None = None,
    policy: str | None = None,
    activate: bool = False,
) -> str:
    """Sends the checkpoint in `folder` to the server at `url`; returns a line that says what has become of it.

    Args:
      folder: holds `variables/`, and `checkpoint.json` if our saver wrote it.
      url: the server's, or that of a policy in it (…/v1/policies/NAME).
      env: where the tokens are.
      name: the checkpoint's name there; the folder's own where None.
      policy: the policy's name; that in `url`, or the server's default one, where None.
      activate: whether it shall serve at once, and stay.

    Raises:
      PushError: it is no checkpoint, or the server refused it or cannot be reached.
    """
    files = _files(folder)
    name = Path(os.path.abspath(folder)).name if name is None else name
    if not is_name(name):
        raise PushError(f"{name!r} cannot name a checkpoint: give it a --name of letters, digits, '.', '_' and '-'")
    target = _target(url, policy)
    try:
        with _opened(files) as opened:
            known = target.policy or _default_policy(target.url, env)
            response = ask(
                "PUT",
                f"{target.url}/admin/policies/{quote(known, safe='')}/checkpoints/{name}"
                + ("?activate=true" if activate else ""),
                _bearer(env, ADMIN_TOKEN)
                | {"Content-Type": "application/x-tar", "Content-Length": str(_tar_size(opened))},
                _tar(opened),
            )
    except Unreachable as error:
        raise PushError(f"{target.url} cannot be reached: {error}") from None
    except OSError as error:
        raise PushError(f"{error.filename} cannot be read: {error.strerror}") from None
    answer = _answer(response, ADMIN_TOKEN)
    try:
        return f"{known}: {_outcome(answer, activate)}"
    except KeyError as error:
        raise PushError(f"{target.url} is no policy server: its answer lacks {error}") from None


def _files(folder: Path) -> dict[str, Path]:
    """What is sent, by the path in the tar; the manifest first, so that a bad one is refused soon."""
    if not folder.is_dir():
        raise PushError(f"{folder} is no folder")
    if (folder / GRAPH_FILE).exists():
        raise PushError(f"{folder} is an export and no checkpoint: save_checkpoint writes those")
    variables = folder / "variables"
    paths = sorted(variables.iterdir()) if variables.is_dir() else []
    files = {f"variables/{path.name}": path for path in paths if path.is_file() and not path.name.startswith(".")}
    if not files:
        raise PushError(f"{folder} is no checkpoint: there is nothing in {variables}")
    manifest = folder / CHECKPOINT_FILE
    return ({CHECKPOINT_FILE: manifest} if manifest.is_file() else {}) | files


def _target(url: str, policy: str | None) -> Target:
    whole = url if "://" in url else f"http://{url}"
    match = re.fullmatch(r"(.*?)(?:/v1/policies(?:/([^/]+))?)?/*", whole, re.DOTALL)
    assert match is not None
    if policy is not None and match[2] not in (None, policy):
        raise PushError(f"{url} names policy {match[2]}, --policy {policy}: expected one of the two")
    return Target(match[1], policy or match[2])


@contextlib.contextmanager
def _opened(files: Mapping[str, Path]) -> Iterator[dict[str, IO[bytes]]]:
    """All at once: what replaces the folder meanwhile cannot mix two checkpoints."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(path.open("rb")) for name, path in files.items()}


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _tar_size(files: Mapping[str, IO[bytes]]) -> int:
    blocks = sum(len(_header(name, _size(file))) + _size(file) + _padding(_size(file)) for name, file in files.items())
    return blocks + 2 * tarfile.BLOCKSIZE


def _tar(files: Mapping[str, IO[bytes]]) -> Iterator[bytes]:
    for name, file in files.items():
        left = size = _size(file)
        yield _header(name, size)
        while left:
            try:
                piece = file.read(min(left, _PIECE_BYTES))
            except OSError as error:
                raise PushError(f"{name} cannot be read: {error.strerror}") from None
            if not piece:
                raise PushError(f"{name} became shorter while it was sent: a checkpoint that is still written?")
            left -= len(piece)
            yield piece
        yield bytes(_padding(size))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)  # which has a form for any size and name


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _default_policy(url: str, env: Mapping[str, str]) -> str:
    answer = _answer(ask("GET", f"{url}/v1/policies", _bearer(env, DATA_TOKEN)), DATA_TOKEN)
    try:
        return str(answer["policies"][0]["name"])
    except (KeyError, IndexError, TypeError):
        raise PushError(f"{url} is no policy server: it lists no policies") from None


def _bearer(env: Mapping[str, str], variable: str) -> dict[str, str]:
    token = env.get(variable, "").strip()
    if not token.isascii():
        raise PushError(f"{variable} has a character that no header can hold")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _answer(response: Answer, variable: str) -> dict[str, Any]:
    """The JSON object of a good answer."""
    try:
        answer = json.loads(response.body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise PushError(f"{response.url} answers {response.status} {response.reason}, and not as a policy server does")
    if 200 <= response.status < 300:
        return answer
    refusal = f"refused ({response.status}): {answer.get('detail', response.reason)}"
    if response.status == 401:
        refusal += f"; here {variable} has to be set to the token that the server was started with"
    if response.status == 403:
        refusal += f"; it is the server that has to be started with {variable}, and then it is to be set here too"
    raise PushError(" ".join(refusal.split()))


def _outcome(answer: Mapping[str, Any], activate: bool) -> str:
    weights = f"{answer['version']} (train step {answer['train_step']})"
    if activate:
        return f"{weights} serves; before it {answer['previous']}; took {answer['took_ms']:.0f} ms"
    return f"{weights} is stored, digest {answer['digest'][:12]}…"
