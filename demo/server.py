"""The real server as a process of its own: started, waited for, watched, stopped."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

from demo.client import POLICY
from demo.records import DemoError

_ROOT = Path(__file__).absolute().parents[1]
_READY_WITHIN_S = 120.0
_STOP_WITHIN_S = 20.0
_POLL_S = 0.1


class Server:
    """`python -m app serve` with one policy, on 127.0.0.1. Use as a context."""

    def __init__(self, policy: Path, port: int, log: Path) -> None:
        self._policy = policy.absolute()
        self._port = port or _free_port()
        self._log = log
        self.admin_token = secrets.token_urlsafe(16)
        self.address = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "Server":
        command = [sys.executable, "-m", "app", "serve", f"{POLICY}={self._policy}"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("POLICY_SERVER_")}
        environment = inherited | {
            "POLICY_SERVER_ADMIN_TOKEN": self.admin_token,
            "TF_USE_LEGACY_KERAS": "1",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the server
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = self._end()
        if error is None and status != 0:
            raise DemoError(f"the server stopped with exit status {status}{self._last_line()}")

    def check(self) -> None:
        """Raises DemoError when the server has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise DemoError(f"the server ended with exit status {status}{self._last_line()}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        with httpx.Client(base_url=self.address, timeout=5.0, trust_env=False) as http:
            while time.monotonic() < deadline:
                self.check()
                try:
                    if http.get("/readyz").status_code == 200:
                        return
                except httpx.HTTPError:
                    pass  # not listening yet
                time.sleep(_POLL_S)
        raise DemoError(f"the server was not ready after {_READY_WITHIN_S:.0f} s{self._last_line()}")

    def _end(self) -> int:
        """Ask it to stop, insist when it or a child of it does not. Returns its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # nobody of its group is left: as it should
                os.killpg(self._process.pid, signal.SIGKILL)

    def _last_line(self) -> str:
        """The end of its log, to put behind a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"; its log, {self._log}, ends with: {lines[-1]}" if lines else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
