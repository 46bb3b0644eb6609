"""A real HAProxy for tests, with the project's own configuration, where the machine has one."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from app.testing import free_port
from tests.support.server import ROOT

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"
_PATIENCE_S = 60.0


@contextlib.contextmanager
def proxied(members: Sequence[str], log: Path) -> Iterator[str]:
    """Its URL, once it answers; `members` are three addresses, "host:port". Skips where there is no HAProxy."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if found is None:
        pytest.skip("no haproxy on this machine: what stands before a fleet is not tested")
    address = f"127.0.0.1:{free_port()}"
    environment = {f"MEMBER_{number}": member for number, member in enumerate(members, 1)} | {"LISTEN": address}
    with log.open("wb") as out:
        process = subprocess.Popen([found, "-f", CONFIGURATION], env=environment, stdout=out, stderr=out)
    try:
        _wait_for(f"http://{address}", process, log)
        yield f"http://{address}"
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
