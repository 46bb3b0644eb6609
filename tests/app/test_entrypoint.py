"""The image's start: which folders under /policies become policies. The script runs over a folder of the test's own."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.server import ROOT


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    return folder


def start(policies: Path, *arguments: str, user: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """The arguments that `python -m app` would get, one in each line."""
    stub = policies.parent / "bin" / "python"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    script = (ROOT / "deploy" / "entrypoint.sh").read_text().replace("/policies", str(policies))
    path = f"{stub.parent}:{os.environ['PATH']}"
    call = ["sh", "-c", script, "entrypoint", *arguments]
    return subprocess.run(call, capture_output=True, text=True, env={"PATH": path, **env}, user=user, cwd="/")


def put(folder: Path) -> None:
    folder.mkdir()
    (folder / "saved_model.pb").touch()


def test_every_policy_is_served_and_what_is_none_is_named(policies: Path) -> None:
    for name in ("walker", "arm-2", "has space"):
        put(policies / name)
    (policies / "checkpoints").mkdir()
    (policies / "notes.txt").touch()
    (policies / "a-link").symlink_to(policies / "nowhere")
    end = start(policies)
    # The link is for the server to report, and no policy but a good one becomes the default.
    expected = ["-m", "app", "serve", f"{policies}/arm-2", f"{policies}/walker", f"{policies}/a-link"]
    assert (end.returncode, end.stdout.splitlines()) == (0, expected)
    assert sorted(end.stderr.splitlines()) == [
        f"{policies}/checkpoints is left out: no saved_model.pb is in it",
        f"{policies}/has space is left out: its name cannot be a policy's",
        f"{policies}/notes.txt is left out: it is no folder",
    ]


def test_a_folder_that_may_not_be_read_is_handed_on() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are this user's alone
        policies = Path(folder) / "policies"
        policies.mkdir()
        for name in ("a-shut", "open"):
            put(policies / name)
        policies.parent.chmod(0o755)
        (policies / "a-shut").chmod(0)
        try:
            end = start(policies, user=65534 if os.geteuid() == 0 else None)
        finally:
            (policies / "a-shut").chmod(0o755)
    assert end.stdout.splitlines()[3:] == [f"{policies}/open", f"{policies}/a-shut"], end.stderr


def test_a_folder_without_policies_is_reported(policies: Path) -> None:
    end = start(policies)
    assert (end.returncode, end.stdout) == (1, "")
    assert "no policy in" in end.stderr


@pytest.mark.parametrize("given", ["arguments", "environment"])
def test_what_is_named_is_not_looked_for(policies: Path, given: str) -> None:
    put(policies / "walker")
    end = start(policies, "inspect", "x") if given == "arguments" else start(policies, POLICY_SERVER_POLICIES="x")
    assert end.stdout.splitlines()[2:] == (["inspect", "x"] if given == "arguments" else ["serve"])
