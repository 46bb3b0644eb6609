"""A unix socket to listen on: bound, owned as settings say, and gone again at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from app.settings import Settings, SettingsError


@contextlib.contextmanager
def unix_socket(settings: Settings) -> Iterator[socket.socket]:
    """Yields the socket at `settings.uds`, to which nobody can connect before it listens; deletes it at the end.

    The file beside it, with `.lock` at its end, is locked while a server uses it, and stays; what a server that was
    killed has left is replaced.

    Raises:
      SettingsError: it cannot be made, or another server is using it.
    """
    path = Path(settings.uds).absolute()
    mode = _mode(settings.uds_mode)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(path.with_name(path.name + ".lock")))
            _delete_stale(path)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(path))
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(mode)
            _give_to(path, settings.uds_owner)
        except OSError as error:
            raise SettingsError(f"cannot listen on {path}: {error.strerror or error}") from None
        yield listener


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"cannot listen on {path.with_suffix('')}: another server does") from None
        yield
    finally:
        os.close(descriptor)


def _delete_stale(path: Path) -> None:
    """Deletes the socket of a server that is gone; raises SettingsError where something else is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SettingsError(f"cannot listen on {path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:  # its backlog is full
            raise SettingsError(f"cannot listen on {path}: another program does") from None
        else:
            raise SettingsError(f"cannot listen on {path}: another program does")


def _mode(text: str) -> int:
    if not 3 <= len(text) <= 4 or any(digit not in "01234567" for digit in text):
        raise SettingsError(f"--uds-mode is {text!r}, expected three octal digits, such as 660")
    return int(text, 8)


def _give_to(path: Path, owner: str) -> None:
    user, _, group = owner.partition(":")
    try:
        if user:
            shutil.chown(path, user=_number(user))
        if group:
            shutil.chown(path, group=_number(group))
    except (LookupError, OverflowError) as error:
        raise SettingsError(f"--uds-owner is {owner!r}: {error}") from None


def _number(name: str) -> str | int:
    """The number that a user or a group goes by, or its name."""
    return int(name) if name.isdecimal() else name
