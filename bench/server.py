# ruff: noqa: S603
"""A real server process to measure: started, waited for, stopped. Its log goes to a file, which never blocks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError

ROOT = Path(__file__).parents[1]
_TOKEN = "bench-admin-token"  # noqa: S105 — of a server that only this machine can reach
_START_S, _POLICY_S = 120, 5  # the second for each policy, which may have to be compiled
_STOP_S = 30
_CALL_S = 60


@dataclass(frozen=True)
class Server:
    """A server on 127.0.0.1, the policy that is measured, where its log is, and the process that was started."""

    policy: str
    port: int
    log: Path
    pid: int

    @property
    def action(self) -> str:
        """The path that is asked for actions."""
        return f"/v1/policies/{self.policy}/action"

    def call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Any request, with the admin token, on a connection of its own; the answer has to be a good one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CALL_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, {"Authorization": f"Bearer {_TOKEN}"})
                response = connection.getresponse()
                answer: dict[str, Any] = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise BenchError(f"{method} {path}: {error or type(error).__name__}") from None
        if response.status // 100 != 2:
            raise BenchError(f"{method} {path}: {response.status} {answer.get('detail', '')}")
        return answer

    def wait_for(self, version: str, at_most_s: float = 30) -> None:
        """Until the server says that `version` serves."""
        until = time.monotonic() + at_most_s
        while self.call("GET", f"/v1/policies/{self.policy}")["version"] != version:
            if time.monotonic() > until:
                raise BenchError(
                    f"{version} does not serve {at_most_s:g} s after it was published; {_end_of(self.log)}"
                )
            time.sleep(0.1)


@contextlib.contextmanager
def serving(policies: Mapping[str, Path], log: Path, options: Sequence[str], tree: Path = ROOT) -> Iterator[Server]:
    """Runs `python -m app serve` of the source `tree` on a free port until the block ends.

    The first policy is the one that is measured.
    """
    port = free_port()
    named = [f"{name}={folder}" for name, folder in policies.items()]
    words = [sys.executable, "-m", "app", "serve", *named, "--port", str(port), *options]
    with started(words, log, {"POLICY_SERVER_ADMIN_TOKEN": _TOKEN}, tree) as process:
        server = Server(next(iter(policies)), port, log, process.pid)
        at_most_s = _START_S + _POLICY_S * len(policies)
        wait_until_ready(process, log, lambda: bool(server.call("GET", "/readyz")), at_most_s)
        yield server


@contextlib.contextmanager
def started(
    words: Sequence[str], log: Path, environment: Mapping[str, str], tree: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, run in the source `tree`, until the block ends."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("POLICY_SERVER_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            cwd=tree,
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the server
        )
    try:
        yield process
    finally:
        _stop(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool], at_most_s: float = _START_S
) -> None:
    """Returns once `is_ready`, which may raise BenchError until then."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise BenchError(f"the server ended with status {process.returncode}; {_end_of(log)}")
        with contextlib.suppress(BenchError):
            if is_ready():
                return
        time.sleep(0.02)
    raise BenchError(f"the server is not ready after {at_most_s:g} s; {_end_of(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # it began a session: whatever processes it has started go with it
        process.wait()


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "its log ends: " + "\n".join(lines[-5:]) if lines else "its log is empty"


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
