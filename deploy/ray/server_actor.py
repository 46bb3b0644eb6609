"""An actor of Ray around one policy server: starts it, says where it is, and ends with it.

No request goes through the actor: a simulator asks the port of the server. Travels to the nodes by value: it may import
what Python and Ray have.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

# A server that has run for less is not started again at once: it would use up a core with importing TensorFlow.
_SHORT_LIFE_S = 30.0
_PAUSE_S = 5.0
_STOP_TIMEOUT_S = 40.0
_POLL_S = 0.1


@dataclass(frozen=True)
class ServerPlan:
    """What an actor starts.

    Attributes:
      words: the command of the server with its arguments, "policy-server", "serve", …
      environment: variables for it, beside those of the actor's process that are no settings of a server.
      port: that it listens on; 0 takes a free one, another one each time that it is started.
      child_program: the source of run_child.py.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    child_program: str


class ServerActor:
    """Has one server as a child of its process. If either ends, so does the other; Ray then starts both again."""

    def __init__(self, plan: ServerPlan) -> None:
        self._address = ray.util.get_node_ip_address()
        self._port = plan.port or _free_port(self._address)
        self._began = time.monotonic()
        self._stopping = False
        self._child = subprocess.Popen(
            [sys.executable, "-c", plan.child_program, *plan.words],
            env={**_without_settings(os.environ), **plan.environment, **self._own_settings()},
            stdin=subprocess.PIPE,  # held, and never written to: see run_child.py
        )
        threading.Thread(target=self._end_with_child, daemon=True).start()

    def _own_settings(self) -> dict[str, str]:
        return {
            "POLICY_SERVER_HOST": "0.0.0.0",
            "POLICY_SERVER_PORT": str(self._port),
            "POLICY_SERVER_ADVERTISE": self._url,
        }

    @property
    def _url(self) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}"

    def describe(self) -> dict[str, Any]:
        """Where the server is: `url`, `node` (Ray's id of it), `pid` of this process, and whether it is `live`."""
        context = ray.get_runtime_context()
        return {"url": self._url, "node": context.get_node_id(), "pid": os.getpid(), "live": self._is_live()}

    def wait_until_live(self, timeout_s: float) -> dict[str, Any]:
        """Waits until the server answers, at most so long, and describes it."""
        deadline = time.monotonic() + timeout_s
        while not self._is_live() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.describe()

    def stop(self) -> int:
        """Stops the server, which finishes what it has accepted, and returns its exit status."""
        self._stopping = True
        self._child.stdin.close()
        return self._child.wait(_STOP_TIMEOUT_S)

    def _is_live(self) -> bool:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=2)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/livez")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def _end_with_child(self) -> None:
        status = self._child.wait()
        if self._stopping:
            return
        print(f"the policy server ended with exit status {status}", file=sys.stderr, flush=True)
        if time.monotonic() - self._began < _SHORT_LIFE_S:
            time.sleep(_PAUSE_S)
        # Not an exception, nor exit_actor: Ray starts an actor again whose process was lost, and no other.
        os._exit(1)


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("POLICY_SERVER_")}


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
