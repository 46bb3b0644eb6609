"""A real server process to measure: `app.testing`'s, of any source tree; and servers that are not ours."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app import testing
from app.testing import ServerFailed
from bench import BenchError

ROOT = testing.ROOT
TOKEN = "bench-admin-token"  # noqa: S105 — of a server that only this machine can reach
_START_S, _POLICY_S = 120, 5  # the second for each policy, which may have to be compiled
_POLL_S = 0.02


@dataclass(frozen=True)
class Server(testing.RunningServer):
    """A server on 127.0.0.1, and the policy that is measured."""

    policy: str

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self.process.pid

    @property
    def action(self) -> str:
        """The path that is asked for actions."""
        return f"/v1/policies/{self.policy}/action"


@contextlib.contextmanager
def serving(
    policies: Mapping[str, Path],
    log: Path,
    options: Sequence[str],
    tree: Path = ROOT,
    more: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Runs `python -m app serve` of the source `tree` until the block ends, with `more` environment variables.

    The first policy is the one that is measured.

    Raises:
      BenchError: it does not start, or a policy cannot be served.
    """
    environment, timeout_s = {"POLICY_SERVER_ADMIN_TOKEN": TOKEN, **(more or {})}, _START_S + _POLICY_S * len(policies)
    try:
        found = testing.start(policies, *options, log=log, environment=environment, tree=tree, timeout_s=timeout_s)
    except ServerFailed as error:
        raise BenchError(str(error)) from None
    try:
        server = Server(found.url, found.admin_token, log, found.process, next(iter(policies)))
        try:
            server.call("GET", "/readyz")
        except ServerFailed as error:
            raise BenchError(str(error)) from None
        yield server
    finally:
        found.stop()


@contextlib.contextmanager
def started(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server that is not ours until the block ends."""
    process = testing.launch(words, log, environment)
    try:
        yield process
    finally:
        testing.stop(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool], at_most_s: float = _START_S
) -> None:
    """Returns once `is_ready`, which may raise BenchError until then."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise BenchError(f"the server ended with status {process.returncode}; {testing.end_of(log)}")
        with contextlib.suppress(BenchError):
            if is_ready():
                return
        time.sleep(_POLL_S)
    raise BenchError(f"the server is not ready after {at_most_s:g} s; {testing.end_of(log)}")
