"""Several real servers, a Redis that can fail, a relay before it for each of them, and HAProxy in front."""

import concurrent.futures
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.fleet.paths import MACHINE_HEADER
from tests.support import processes
from tests.support.haproxy import HaProxy, haproxy_running
from tests.support.ports import port_below_outgoing
from tests.support.redis_server import RedisServer, running_redis
from tests.support.relay import Relay, Relays
from tests.support.server import ROOT, RunningServer, serving
from tests.support.steady import until

# Longer than a lease, and the renewals that may fail in it.
LEASE_S = 5.0
_LINES = 40  # of each log, where a test fails


@dataclass(frozen=True)
class Plan:
    """What the members serve and how.

    Args:
      folders: of each member, its policies by name: the same folders for all, or folders of their own.
      state: where each member keeps its state.
      together: whether they are a fleet, or servers that know nothing of each other.
      sessions: whether they keep sessions in the same Redis.
    """

    folders: Sequence[Mapping[str, Path]]
    state: Path
    name: str = "default"
    options: tuple[str, ...] = ("--no-watch",)
    together: bool = True
    sessions: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


class Member:
    """One server on a port of its own. `redis` is its way to Redis, `given` the others' way to it."""

    def __init__(self, number: int, plan: Plan, redis: Relay, relays: Relays) -> None:
        self.number = number
        self.port = port_below_outgoing()
        self.redis = redis
        self.given = relays.before(self.port)
        self.given.hides = MACHINE_HEADER.encode()  # as where each member has a machine of its own
        self.folders = dict(plan.folders[number])
        self._plan = plan
        self._stack: contextlib.ExitStack | None = None
        self._server: RunningServer | None = None
        self._killed: list[int] = []

    @property
    def server(self) -> RunningServer:
        """It has been started."""
        assert self._server is not None
        return self._server

    @property
    def runs(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    @property
    def state(self) -> Path:
        """What it keeps while it is not running."""
        return self._plan.state / str(self.number)

    def start(self, tree: Path = ROOT) -> None:
        """Returns once it listens; also after it was killed. `tree`: the source folder that it runs from."""
        self.close()
        until(lambda: not any(processes.state(pid) for pid in self._killed), "the end of all its processes")
        self._killed = []
        plan, url = self._plan, f"redis://127.0.0.1:{self.redis.port}/0"
        options = ["--port", str(self.port), "--state-dir", str(self.state), *plan.options]
        environment = dict(plan.environment)
        if plan.together:
            options += ["--fleet", plan.name, "--advertise", f"http://127.0.0.1:{self.given.port}"]
            environment["POLICY_SERVER_FLEET_URL"] = url
        if plan.sessions:
            environment["POLICY_SERVER_SESSION_URL"] = url
        self._stack = contextlib.ExitStack()
        self._server = self._stack.enter_context(
            serving(self.folders, *options, tree=tree, prepared=True, **environment)
        )

    def kill(self) -> None:
        """Ends all its processes at once, as where a machine loses power. Any thread; does not wait."""
        self._killed = self.signal(signal.SIGKILL)

    def signal(self, number: int) -> list[int]:
        """Sends a signal to all its processes; returns which they are."""
        pids = [self.server.process.pid, *self.server.processes()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def close(self) -> None:
        """Stops it, if it has not ended."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def is_ready(self) -> bool:
        return self.runs and _status(self.server, "/readyz") == 200

    def serves(self, policy: str = "p", **options: Any) -> int:
        """The train step that it answers from, checked against the action."""
        body = {"observation": [7, 0, 0, 0], "options": options}
        answer = self.server.http.post(f"/v1/policies/{policy}/action", json=body).raise_for_status().json()
        assert answer["action"] == [1000 * answer["train_step"] + 7] * 2, answer
        return int(answer["train_step"])

    def reload(self, policy: str = "p", **body: object) -> httpx.Response:
        return self.server.reload(policy, **body)

    def described(self) -> dict[str, Any]:
        """What `GET /admin/fleet` answers here."""
        answer: dict[str, Any] = self.server.admin.get("/admin/fleet").raise_for_status().json()
        return answer

    def states(self, policy: str = "p") -> list[str]:
        """Those of all members, as this one sees them."""
        return [member["policies"][policy]["state"] for member in self.described()["members"]]


def _status(server: RunningServer, path: str) -> int:
    try:
        return httpx.get(server.url + path, trust_env=False, timeout=5).status_code
    except httpx.HTTPError:
        return 0


class Fleet:
    """All of it, while it runs."""

    def __init__(self, members: list[Member], redis: RedisServer, proxy: HaProxy, together: bool) -> None:
        self.members = members
        self.redis = redis
        self.proxy = proxy
        self.together = together

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def reload(self, at: int = 0, policy: str = "p", **body: object) -> int:
        """The train step that all serve once it has been answered: in a fleet it is asked of one, or of each."""
        steps = set()
        for number in [at] if self.together else range(len(self.members)):
            answer = self[number].reload(policy, **body)
            assert answer.status_code == 200, answer.text
            steps.add(int(answer.json()["train_step"]))
            assert not self.together or answer.json()["members"] >= 1
        (step,) = steps
        return step

    def serve(self, policy: str = "p") -> list[int]:
        """What each answers from, asked directly."""
        return [member.serves(policy) for member in self.members]

    def wait_until_whole(self, timeout_s: float = 600) -> None:
        """Every member runs, is ready, and gets requests from HAProxy."""
        for member in self.members:
            until(member.is_ready, f"member {member.number} is ready", timeout_s)
        self.proxy.wait_until_up(*range(len(self.members)))

    def check_ready_ones(self, step: int, policy: str = "p") -> None:
        """A member that is ready, before and after it is asked, answers from this train step."""
        for member in self.members:
            if member.is_ready():
                found = member.serves(policy)
                assert found == step or not member.is_ready(), f"member {member.number} is ready with {found}"

    def restart_killed(self) -> list[int]:
        """Starts every member again that does not run, as an orchestrator would."""
        ended = [member for member in self.members if not member.runs]
        at_once([member.start for member in ended])
        return [member.number for member in ended]

    def tracebacks(self) -> list[str]:
        """Each with the lines around it, of all members."""
        found = []
        for member in self.members:
            lines = member.server.lines
            places = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
            found += ["\n".join(lines[max(0, at - 2) : at + _LINES]) for at in places]
        return found

    def print_logs(self) -> None:
        for member in self.members:
            if member._server is not None:
                print(f"--- member {member.number}", *member.server.lines[-_LINES:], sep="\n", file=sys.stderr)


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Runs them in threads; all have ended when the first error is raised."""
    with concurrent.futures.ThreadPoolExecutor(max(1, len(calls))) as executor:
        for done in [executor.submit(call) for call in calls]:
            done.result()


@contextlib.contextmanager
def fleet_running(
    plan: Plan, redis: RedisServer | None = None, started: int | None = None, proxy_config: Path | None = None
) -> Iterator[Fleet]:
    """A fleet of as many members as `plan` has folders, all ready.

    Args:
      plan: see there.
      redis: one that is there already; one of its own if not given.
      started: how many members run at first; all if not given.
      proxy_config: HAProxy's; if not given, each request of a connection goes to the next member.
    """
    with contextlib.ExitStack() as stack:
        server = redis or stack.enter_context(running_redis())
        relays = stack.enter_context(Relays.running())
        members = [Member(number, plan, relays.before(server.port), relays) for number in range(len(plan.folders))]
        proxy = stack.enter_context(haproxy_running([member.port for member in members], proxy_config))
        for member in members:
            stack.callback(member.close)
        running = members[: len(members) if started is None else started]
        at_once([member.start for member in running])
        fleet = Fleet(members, server, proxy, plan.together)
        try:
            for member in running:
                until(member.is_ready, f"member {member.number} is ready")
            proxy.wait_until_up(*range(len(running)))
            yield fleet
        except BaseException:
            fleet.print_logs()
            raise
        finally:
            for member in members:  # what is suspended, or waits for Redis, would not stop
                if member.runs:
                    member.signal(signal.SIGCONT)
