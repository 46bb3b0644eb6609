# ruff: noqa: S603
"""A policy server as a process of its own, for programs that test against one: started, awaited, stopped.

    with serving({"cartpole": "policies/cartpole"}, log="server.log") as server:
        RemotePolicy(server.url, "cartpole").action(observation)

Needs nothing but Python's standard library here; the server that it starts needs its whole environment.
`docs/how-to/test-a-simulator.md` shows it in a simulator's tests.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).absolute().parents[1]
# TensorFlow's import, and about a second to compile each policy; more than that on a busy machine.
START_TIMEOUT_S = 180.0
# Longer than the server's own bound for finishing what it has accepted.
STOP_TIMEOUT_S = 30.0
_CALL_TIMEOUT_S = 60.0
_POLL_S = 0.02
_LOG_LINES = 5  # of the log's end, in messages
# The first and the last line of what a server says once it accepts connections, as text or as JSON.
_LISTENING = re.compile(
    r'^(?:{[^\n]*"message": ")?Listening on (http://\S+).*^(?:{[^\n]*"message": ")?Limits: [^\n]*\n',
    re.MULTILINE | re.DOTALL,
)


class ServerFailed(Exception):
    """The server did not start, ended by itself, did not stop cleanly, or refused a call; the message says which."""


@dataclass(frozen=True)
class RunningServer:
    """A server that accepts requests.

    Attributes:
      url: its address, "http://127.0.0.1:PORT".
      admin_token: the bearer token of its routes under `/admin`.
      log: the file that gets all it prints.
      process: the control process; it leads a session of its own, in which its workers and its builder run.
    """

    url: str
    admin_token: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(urlsplit(self.url).port or 0)

    def call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Sends one request with the admin token, on a connection of its own, and returns the JSON of the answer.

        Args:
          method: "GET", "POST", …
          path: with its query, beginning with "/".
          body: bytes of JSON, or of a tar for an upload.

        Raises:
          ServerFailed: no answer, or one whose status is not 2xx.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CALL_TIMEOUT_S)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, {"Authorization": f"Bearer {self.admin_token}"})
                response = connection.getresponse()
                content = response.read()
                answer: dict[str, Any] = json.loads(content) if content else {}
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServerFailed(f"{method} {path}: {error or type(error).__name__}") from None
        if response.status // 100 != 2:
            raise ServerFailed(f"{method} {path}: {response.status} {answer.get('detail', '')}")
        return answer

    def reload(self, policy: str, checkpoint: str | None = None) -> dict[str, Any]:
        """Makes a checkpoint serve, the newest one if none is named; returns once it does.

        Raises:
          ServerFailed: the checkpoint was refused; the weights before it still serve.
        """
        body = {} if checkpoint is None else {"checkpoint": checkpoint}
        return self.call("POST", f"/admin/policies/{policy}/reload", json.dumps(body).encode())

    def wait_for(self, policy: str, version: str, timeout_s: float = 30.0) -> None:
        """Waits until a policy is served by `version`, a checkpoint's name or "export".

        Raises:
          ServerFailed: it is not within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while self.call("GET", f"/v1/policies/{policy}")["version"] != version:
            if time.monotonic() > deadline:
                raise ServerFailed(f"{policy}: {version} does not serve after {timeout_s:g} s; {end_of(self.log)}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises ServerFailed if the server has ended."""
        _check_alive(self.process, self.log)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Stops the server, which finishes what it has accepted, and returns its exit status: 0 if all was well."""
        return stop(self.process, timeout_s)


@contextlib.contextmanager
def serving(
    policies: Mapping[str, str | Path],
    *options: str,
    log: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[RunningServer]:
    """Runs a server within the block, ready at its start and stopped at its end.

    Args:
      policies: folders of exports, by the names that they are served under; the first is the default policy.
      *options: of `policy-server serve`, such as "--engine", "litert"; paths among them absolute.
      log: where its output goes; a temporary file if not given.
      environment: variables for it beside those of this process, of which its settings are not passed on.
      start_timeout_s: how long it may take until it is ready.

    Yields:
      The running server; all policies have weights.

    Raises:
      ServerFailed: it was not ready in time, a policy cannot be served, or it ended before or with a status other
        than 0.
    """
    with contextlib.ExitStack() as stack:
        if log is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy-server-"))) / "server.log"
        server = start(policies, *options, log=Path(log), environment=environment, timeout_s=start_timeout_s)
        try:
            server.call("GET", "/readyz")
            yield server
        except BaseException:
            server.stop()
            raise
        if (status := server.stop()) != 0:
            raise ServerFailed(f"the server stopped with exit status {status}; {end_of(server.log)}")


def start(
    policies: Mapping[str, str | Path],
    *options: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    tree: Path = ROOT,
    timeout_s: float = START_TIMEOUT_S,
) -> RunningServer:
    """Starts a server, and returns once it listens; `stop` is the caller's to call.

    A policy that cannot be opened is left out by the server, which tries it again: `/readyz` says so.

    Args:
      policies: as those of `serving`.
      *options: as those of `serving`.
      log: the file that gets its output.
      environment: as that of `serving`.
      tree: the source folder that holds the package `app`.
      timeout_s: how long it may take until it listens.

    Raises:
      ServerFailed: it does not listen in time, or ends before; it is stopped then.
    """
    extra = dict(environment or {})
    token = extra.setdefault("POLICY_SERVER_ADMIN_TOKEN", secrets.token_urlsafe(16))
    process = launch([*command(policies), "--port", "0", *options], log, extra, tree)
    try:
        return RunningServer(_wait_for_address(process, log, timeout_s), token, log, process)
    except BaseException:
        stop(process)
        raise


def command(policies: Mapping[str, str | Path]) -> list[str]:
    """Returns the words that start a server over these policies; options may follow."""
    named = [f"{name}={Path(folder).absolute()}" for name, folder in policies.items()]
    return [sys.executable, "-m", "app", "serve", *named]


def inherited_environment() -> dict[str, str]:
    """Returns this process's environment variables without any setting of a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POLICY_SERVER_")}


def launch(
    words: Sequence[str], log: Path, environment: Mapping[str, str], tree: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Starts any server's process in the folder `tree`; its output goes to a file, which never makes it wait."""
    with log.open("wb") as out:
        return subprocess.Popen(
            words,
            cwd=tree,
            env={**inherited_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the caller, which then stops the server
        )


def stop(process: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Asks a process that `launch` started to stop, kills what is left of it, and returns its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):  # as a rule none of its session is left
            os.killpg(process.pid, signal.SIGKILL)


def end_of(log: Path) -> str:
    """Returns the last lines of a log, to be put behind a message."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"its log, {log}, ends: " + "\n".join(lines[-_LOG_LINES:]) if lines else f"its log, {log}, is empty"


def free_port() -> int:
    """Returns a port of 127.0.0.1 on which nothing listens, for servers that cannot choose one; ours can: port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_address(process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> str:
    """Waits until the log says where the server listens, which it does once connections are accepted."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := _LISTENING.search(log.read_text(errors="replace")):
            return found[1]
        _check_alive(process, log)
        time.sleep(_POLL_S)
    raise ServerFailed(f"the server does not listen after {timeout_s:g} s; {end_of(log)}")


def _check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    status = process.poll()
    if status is not None:
        raise ServerFailed(f"the server ended with exit status {status}; {end_of(log)}")
