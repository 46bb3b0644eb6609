# ruff: noqa: S603
"""An environment for each peer, made where it is missing: `.bench-peers/<name>`. What went wrong stays there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import BenchError
from bench.serving.peers.table import ENGINE, Peer

_READY, _FAILED = "ready", "failed.txt"
_INSTALL_S = 1800


def make(folder: Path, peer: Peer, progress: Callable[[str], None]) -> None:
    """Tries once; a folder that is deleted is made again. `python_of` reports a failure."""
    home = folder / peer.name
    if (home / _READY).exists() or (home / _FAILED).exists():
        return
    progress(f"{peer.name}: an environment with {' '.join(peer.packages)}")
    shutil.rmtree(home, ignore_errors=True)
    try:
        _run(sys.executable, "-m", "venv", str(home))
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(*pip, *peer.packages, "numpy")
        _run(*pip, "--no-deps", ENGINE)
        (home / _READY).touch()
    except BenchError as error:
        (home / _FAILED).write_text(str(error))


def python_of(folder: Path, peer: Peer) -> Path:
    """What runs the peer.

    Raises:
      BenchError: its environment could not be made; the message says why.
    """
    home = folder / peer.name
    if (home / _READY).exists():
        return home / "bin" / "python"
    reason = (home / _FAILED).read_text() if (home / _FAILED).exists() else "there is no environment for it"
    raise BenchError(f"not installed: {reason}")


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"not ready after {_INSTALL_S} s") from None
    if done.returncode:
        raise BenchError(done.stderr.strip()[-500:] or f"{words[0]} ended with status {done.returncode}")
