"""A unix socket is bound where nothing else is, belongs to whom the settings say, and is gone at the end."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, SettingsError
from app.unix_socket import unix_socket


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def settings(path: Path | str, **more: Any) -> Settings:
    return Settings((), uds=str(path), **more)


def refusal(path: Path | str, **more: Any) -> str:
    """What is said where there can be no socket."""
    with pytest.raises(SettingsError) as refused, unix_socket(settings(path, **more)):
        pytest.fail("there is one")
    return str(refused.value)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def test_it_takes_connections_once_it_listens_and_leaves_its_lock_alone(path: Path) -> None:
    with unix_socket(settings(path)) as listener:
        assert not connects(path)
        listener.listen()
        assert connects(path)
    assert [left.name for left in path.parent.iterdir()] == ["s.lock"]


def test_a_path_may_begin_in_the_working_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with unix_socket(settings("s")):
        assert path.is_socket()


def test_an_owner_whose_number_is_none_is_refused_and_nothing_is_left(path: Path) -> None:
    for owner in ("9" * 30, f":{'9' * 30}"):
        with (
            pytest.raises(SettingsError, match=f"--uds-owner is '{owner}'"),
            unix_socket(settings(path, uds_owner=owner)),
        ):
            pass
        assert not path.exists()


def test_an_error_of_the_server_is_its_own_and_leaves_room_for_the_next_one(path: Path) -> None:
    with pytest.raises(OSError, match="of the server"), unix_socket(settings(path)):
        raise OSError("of the server")
    assert not path.exists()
    with unix_socket(settings(path)):
        assert path.is_socket()


def test_one_that_somebody_has_deleted_meanwhile_is_no_error_at_the_end(path: Path) -> None:
    with unix_socket(settings(path)):
        path.unlink()


def test_what_a_server_that_was_killed_has_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    path.with_name("s.lock").touch()
    with unix_socket(settings(path)) as listener:
        listener.listen()
        assert connects(path)


def test_that_of_another_server_stays_even_before_it_listens(path: Path) -> None:
    with unix_socket(settings(path)) as listener:
        assert refusal(path) == f"cannot listen on {path}: another server does"
        listener.listen()
        assert connects(path)


@pytest.mark.parametrize("waiting", [0, 1], ids=["listens", "is busy"])
def test_that_of_another_program_stays(path: Path, waiting: int) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(0)
        for _ in range(waiting):
            client.connect(str(path))
        assert refusal(path) == f"cannot listen on {path}: another program does"
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_what_is_no_socket_stays(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nothing")
    before = path.lstat()
    assert refusal(path) == f"cannot listen on {path}: a file that is no socket is there"
    assert path.lstat().st_ino == before.st_ino


def test_a_path_that_no_socket_can_have_is_named_with_the_reason(path: Path) -> None:
    long = path.with_name("x" * 120)
    assert refusal(long) == f"cannot listen on {long}: AF_UNIX path too long"
    nowhere = path.parent / "none" / "s"
    assert refusal(nowhere) == f"cannot listen on {nowhere}: No such file or directory"


@pytest.mark.parametrize(("text", "mode"), [("660", 0o660), ("0606", 0o606), ("000", 0), ("1777", 0o1777)])
def test_a_mode_is_taken_as_chmod_takes_it(path: Path, text: str, mode: int) -> None:
    with unix_socket(settings(path, uds_mode=text)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("text", ["", "66", "00660", "668", "rw-", "0o6", "-66", "66 ", "٦٦٠"])
def test_a_mode_that_is_none_is_refused_before_anything_is_made(path: Path, text: str) -> None:
    assert refusal(path, uds_mode=text) == f"--uds-mode is {text!r}, expected three octal digits, such as 660"
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "given"),
    [
        ("", []),
        (":", []),
        ("7", [(7, -1)]),
        (":8", [(-1, 8)]),
        ("7:8", [(7, -1), (-1, 8)]),
        ("root:root", [(0, -1), (-1, 0)]),
    ],
)
def test_it_is_given_to_whom_the_settings_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, given: list[tuple[int, int]]
) -> None:
    asked: list[tuple[Any, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *arguments, **_: asked.append(arguments))
    with unix_socket(settings(path, uds_owner=owner)):
        assert asked == [(path, *each) for each in given]


@pytest.mark.parametrize(
    ("owner", "reason"),
    [("no-such:8", "no such user: 'no-such'"), (":no-such", "no such group: 'no-such'")],
)
def test_an_owner_who_is_not_known_is_named_and_nothing_is_left_to_connect_to(
    path: Path, owner: str, reason: str
) -> None:
    assert refusal(path, uds_owner=owner) == f"--uds-owner is {owner!r}: {reason}"
    assert not path.exists()


def test_an_owner_to_whom_it_may_not_be_given_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    assert refusal(path, uds_owner="7") == f"cannot listen on {path}: Operation not permitted"
    assert not path.exists()
