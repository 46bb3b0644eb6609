# ruff: noqa: S603, S607
"""A revision of this repository → its source in a folder, to be measured beside the present one."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from bench import BenchError
from bench.harness.server import ROOT


def source_of(revision: str, folder: Path) -> Path:
    """Unpacks what git has of the revision into `folder`.

    Raises:
      BenchError: git knows no such revision.
    """
    done = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"--before {revision}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
