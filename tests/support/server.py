"""A real server process for tests: `app.testing`'s, with HTTP clients of it."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app import testing
from tests.support import processes
from tests.support.prepared import prepare

ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "test-admin-token"
_PATIENCE_S = 600.0  # of a machine that is busy with other tests


@dataclass(frozen=True)
class RunningServer(testing.RunningServer):
    """A server that answers; `http` is a client of it, `admin` one that has the admin token."""

    http: httpx.Client
    admin: httpx.Client
    printed: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What it has printed up to now, or all once it has been stopped; a line still being written is left out."""
        return self.printed or self.log.read_text().rpartition("\n")[0].split("\n")

    def reload(self, policy: str, **body: object) -> httpx.Response:
        return self.admin.post(f"/admin/policies/{policy}/reload", json=body)

    def processes(self, module: str = "") -> list[int]:
        """The ids of the processes that it has started: those that run `module`, or all; the oldest first."""
        return processes.children(self.process.pid, module)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", "serve", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without any setting of a server."""
    return testing.inherited_environment() | {"POLICY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN} | extra


@contextlib.contextmanager
def serving(
    policies: Mapping[str, Path], *options: str, tree: Path = ROOT, prepared: bool = False, **env: str
) -> Iterator[RunningServer]:
    """Runs a server until the block ends, which may have ended it before, or stopped some of its processes.

    Args:
      policies: folders of exports, by name.
      *options: of `serve`.
      tree: the source folder that it runs from.
      prepared: whether a new state folder has what its exports run from: it compiles nothing before it answers.
      **env: variables of its environment.
    """
    variables = {"POLICY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN} | env
    limits = httpx.Limits(max_connections=64, keepalive_expiry=60)  # the server's is longer
    bearer = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with tempfile.TemporaryDirectory(prefix="test-server-") as folder:
        log = Path(folder, "log")
        if prepared:
            if "--state-dir" not in options:
                options += ("--state-dir", str(Path(folder, "state")))
            prepare(Path(options[options.index("--state-dir") + 1]), policies)
        found = testing.start(policies, *options, log=log, environment=variables, tree=tree, timeout_s=_PATIENCE_S)
        with (
            httpx.Client(base_url=found.url, timeout=600, trust_env=False, limits=limits) as http,
            httpx.Client(base_url=found.url, timeout=600, trust_env=False, limits=limits, headers=bearer) as admin,
        ):
            running = RunningServer(found.url, ADMIN_TOKEN, log, found.process, http, admin)
            try:
                yield running
            finally:
                testing.stop(found.process, _PATIENCE_S)
                running.printed.extend(running.lines)
