"""The builder process while it starts: it takes seconds to import TensorFlow, and a server may end meanwhile."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.builder.__main__ import _FIRST_CALL_S

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


@pytest.mark.parametrize("called", [True, False], ids=["for a call", "by itself"])
def test_it_ends_with_its_link_while_tensorflow_is_imported(tmp_path: Path, called: bool) -> None:
    began = time.monotonic()
    with builder(tmp_path) as (process, link):
        assert process.stdout is not None
        if called:
            link.send(b"\0")
        assert process.stdout.readline() == b"importing\n"
        assert called or time.monotonic() - began > _FIRST_CALL_S
        link.close()
        assert process.wait(60) == 0


def test_without_a_call_it_leaves_the_first_seconds_to_others_and_ends_with_its_link(tmp_path: Path) -> None:
    with builder(tmp_path) as (process, link):
        link.close()
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 0
