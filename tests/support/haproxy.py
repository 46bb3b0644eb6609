"""A real HAProxy before several servers, where the machine has one."""

import contextlib
import csv
import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from tests.support.ports import port_below_outgoing
from tests.support.server import ROOT
from tests.support.steady import until

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"
_PATIENCE_S = 60.0

# Every request of a connection goes to the next member. Checks, time-outs and what is sent again are as in the file
# that is given to users.
_CONFIG = """
global
    log stdout format raw daemon notice
    stats socket {socket} mode 600 level admin
    fd-hard-limit 4000
    hard-stop-after 5s

defaults
    mode http
    log global
    option dontlog-normal
    timeout check 1s
    default-server check inter 1s fastinter 200ms downinter 500ms fall 2 rise 1
    balance roundrobin
    timeout connect 1s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout client 70s
    timeout queue 1s
    timeout server 15s
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response

frontend policies
    bind 127.0.0.1:{port}
    acl reading method GET HEAD
    acl stateless path_reg ^(/v1/policies/[^/]+)?/(action|distribution|get_initial_state)$
    http-request disable-l7-retry unless reading or stateless
    http-request wait-for-body time 10s if stateless
    use_backend ready if {{ nbsrv(ready) gt 0 }}
    default_backend alive

backend ready
    option httpchk GET /readyz
    http-check expect status 200
{servers}

backend alive
    option httpchk GET /livez
    http-check expect status 200
{servers}
"""


class HaProxy:
    """One that runs, before servers that are named member-1, member-2, …"""

    def __init__(self, port: int, commands: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._commands = commands

    def states(self) -> dict[str, str]:
        """What it takes each member for: "UP", "DOWN", or something between."""
        rows = csv.DictReader(io.StringIO(self._ask("show stat").lstrip("# ")))
        return {row["svname"]: row["status"] for row in rows if row["pxname"] == "ready" and row["svname"][0] == "m"}

    def wait_until_up(self, *numbers: int) -> None:
        """Returns when exactly these members, counted from 0, get requests."""
        wanted = {f"member-{number + 1}" for number in numbers}
        until(lambda: {name for name, state in self.states().items() if state.startswith("UP")} == wanted, str(wanted))

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._commands))
            connection.sendall(command.encode() + b"\n")
            with connection.makefile() as answer:
                return answer.read()


@contextlib.contextmanager
def haproxy_running(members: Sequence[int], config: Path | None = None) -> Iterator[HaProxy]:
    """One before these ports of 127.0.0.1. Skips the test where there is no HAProxy.

    `config`: users' own file, for three members, in place of the one above.
    """
    found = _found()
    servers = "\n".join(f"    server member-{number} 127.0.0.1:{port}" for number, port in enumerate(members, 1))
    with tempfile.TemporaryDirectory(prefix="test-haproxy-") as folder:
        commands, written, log = Path(folder, "socket"), Path(folder, "haproxy.cfg"), Path(folder, "log")
        port = port_below_outgoing()
        if config is None:
            written.write_text(_CONFIG.format(port=port, socket=commands, servers=servers))
        else:
            written.write_text(f"global\n    stats socket {commands} mode 600 level admin\n")
        words = [found, "-db", *(["-f", config] if config else []), "-f", written]
        environment = os.environ | {"LISTEN": f"127.0.0.1:{port}"}
        environment |= {f"MEMBER_{number}": f"127.0.0.1:{member}" for number, member in enumerate(members, 1)}
        with _started(words, environment, log) as process:
            until(lambda: commands.exists() or process.poll() is not None, "HAProxy")
            assert process.poll() is None, log.read_text()
            yield HaProxy(port, commands)


@contextlib.contextmanager
def proxied(members: Sequence[str], log: Path) -> Iterator[str]:
    """Its URL, once it answers; `members` are three addresses, "host:port". Skips where there is no HAProxy."""
    found = _found()
    address = f"127.0.0.1:{port_below_outgoing()}"
    environment = {f"MEMBER_{number}": member for number, member in enumerate(members, 1)} | {"LISTEN": address}
    with _started([found, "-f", CONFIGURATION], environment, log) as process:
        _wait_for(f"http://{address}", process, log)
        yield f"http://{address}"


@contextlib.contextmanager
def _started(
    words: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which is killed at the end; what it prints goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a member is reached; checks have not ended yet, and all count as up until they have."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/livez", trust_env=False, verify=False).status_code == 200:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _found() -> str:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if found is None:
        pytest.skip("no haproxy on this machine: what stands before a fleet is not tested")
    return found
