"""The builder process while it starts: it takes seconds to import TensorFlow, and a server may end meanwhile."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.builder.__main__ import waits_for_import

# It says that it is being imported, and takes for ever.
_TENSORFLOW = "import sys, threading\nprint('importing', flush=True)\nthreading.Event().wait()\n"


@contextlib.contextmanager
def builder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The process, which cannot get further than the import, and the other end of its link."""
    (tmp_path / "tensorflow.py").write_text(_TENSORFLOW)
    near, far = socket.socketpair()
    words = [sys.executable, "-P", "-m", "app.builder", str(far.fileno()), "auto", "info", "text", str(tmp_path)]
    path = os.pathsep.join((str(tmp_path), str(Path.cwd())))
    with (
        near,
        subprocess.Popen(
            words, pass_fds=[far.fileno()], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
        ) as process,
    ):
        far.close()
        try:
            yield process, near
        finally:
            process.kill()


def test_it_ends_with_its_link_while_tensorflow_is_imported(tmp_path: Path) -> None:
    with builder(tmp_path) as (process, link):
        assert process.stdout is not None
        link.send(b"\0")
        assert process.stdout.readline() == b"importing\n"
        link.close()
        assert process.wait(60) == 0


def test_without_a_call_it_leaves_the_first_seconds_to_others_and_ends_with_its_link(tmp_path: Path) -> None:
    with builder(tmp_path) as (process, link):
        link.close()
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("busy", "looks"),
    [
        ([False] * 5, 5),  # a machine that has a core to spare from the start
        ([True, False, False, True, *[False] * 5], 9),
        ([True] * 60, 60),  # not for ever: the first swap is waited for
    ],
)
def test_the_import_comes_by_itself_once_a_core_has_been_free_for_a_while(busy: list[bool], looks: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        left = iter(busy)
        assert waits_for_import(far.fileno(), left.__next__, 0.0)
        assert len(busy) - len([*left]) == looks


def test_a_call_is_not_kept_waiting_and_without_a_server_nothing_is_imported() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.send(b"\0")
        assert waits_for_import(far.fileno(), look_s=60)
        far.recv(1)
        near.close()
        assert not waits_for_import(far.fileno(), look_s=60)
