"""A real server process for tests: started, waited for, stopped, its output kept."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "test-admin-token"


@dataclass
class RunningServer:
    """A server that answers; `http` is a client of it, `admin` one that has the admin token."""

    process: subprocess.Popen[str]
    url: str
    http: httpx.Client
    admin: httpx.Client
    lines: list[str] = field(default_factory=list)

    def reload(self, policy: str, **body: object) -> httpx.Response:
        return self.admin.post(f"/admin/policies/{policy}/reload", json=body)

    def processes(self, module: str = "") -> list[int]:
        """The ids of the processes that it has started: those that run `module`, or all; the oldest first."""
        pid = self.process.pid
        listed = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _words(task / "children")]
        return sorted(
            int(child) for child in listed if module in _words(Path(f"/proc/{child}/cmdline"), "\0") or not module
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        self.lines += (self.process.stdout or []) and self.process.stdout.read().splitlines()
        return self.process.wait()


def _words(path: Path, separator: str | None = None) -> list[str]:
    """Of a file in /proc; none where its process has ended."""
    try:
        return path.read_text().split(separator)
    except OSError:
        return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", "serve", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without any setting of a server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("POLICY_SERVER_")}
    return kept | {"POLICY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN} | extra


@contextlib.contextmanager
def serving(policies: Mapping[str, Path], *options: str, **env: str) -> Iterator[RunningServer]:
    """Runs `python -m app serve` on a free port until the block ends."""
    port = free_port()
    named = [f"{name}={folder}" for name, folder in policies.items()]
    process = subprocess.Popen(
        command(*named, "--port", str(port), *options),
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    bearer = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    limits = httpx.Limits(max_connections=64)
    with (
        httpx.Client(base_url=url, timeout=600, trust_env=False, limits=limits) as http,
        httpx.Client(base_url=url, timeout=600, trust_env=False, headers=bearer) as admin,
    ):
        running = RunningServer(process, url, http, admin)
        try:
            _wait_for_first_line(running)
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=600)
            assert process.stdout is not None
            process.stdout.close()


def _wait_for_first_line(running: RunningServer) -> None:
    """The line "Listening on …" comes once connections are accepted."""
    deadline = time.monotonic() + 600
    assert running.process.stdout is not None
    for line in running.process.stdout:
        running.lines.append(line.rstrip())
        if line.startswith("Limits:"):
            return
        assert time.monotonic() < deadline
    raise AssertionError("the server ended: " + "\n".join(running.lines))
