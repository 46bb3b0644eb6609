"""The saver runs where trainers are, the client where simulators are: nothing in them is newer than Python 3.9."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import ROOT


def newer_than_3_9(path: Path) -> str:
    command = [Path(sys.executable).parent / "vermin", "--target=3.9-", "--violations", "--no-tips", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize("folder", ["saver", "client/policy_client"])
def test_nothing_in_them_is_newer_than_python_3_9(folder: str) -> None:
    assert newer_than_3_9(ROOT / folder) == ""


@pytest.mark.parametrize(
    "line",
    [
        "import hashlib\nhashlib.file_digest(None, 'md5')",
        "from typing import Self",
        "from enum import StrEnum",
        "import tomllib",
        "from datetime import UTC",
        "match 1:\n    case 1: pass",
        "try: pass\nexcept* ValueError: pass",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: pass",
        "zip([], [], strict=True)",
    ],
)
def test_what_is_newer_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "planted.py").write_text(f"from __future__ import annotations\n{line}\n")
    assert newer_than_3_9(tmp_path / "planted.py") != ""
