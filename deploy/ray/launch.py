"""Policy servers on the nodes of a Ray cluster, one a node.

    python deploy/ray/launch.py up --servers 3 cartpole=/policies/cartpole

Ray places them, starts them again, on another node where theirs is gone, and adds nodes for them where it may. Nodes
that may have one are started with `ray start --resources='{"policy_server": 1}'`, and see the policies' folder.

Settings of the servers are the variables POLICY_SERVER_… of this command's environment; docs/how-to/fleet.md is the
guide.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

sys.path.insert(0, str(Path(__file__).parent))
import server_actor
from server_actor import ServerActor, ServerPlan

NAMESPACE = "policy-servers"
# A custom resource, of which each node has one: so no two servers are on a node. A placement group with STRICT_SPREAD
# would do the same for a number of servers that never changes: it cannot grow.
RESOURCE = "policy_server"
# What the actor sets itself: it knows its node.
_OWN = ("POLICY_SERVER_HOST", "POLICY_SERVER_PORT", "POLICY_SERVER_ADVERTISE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 1 where not every server answers."""
    parsed = _parsed(arguments)
    ray.init(address=parsed.address, namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    try:
        if parsed.command == "down":
            scale(0, None, parsed.cpus)
            return 0
        if parsed.command == "up":
            words = (*shlex.split(parsed.server), "serve", *parsed.policies)
            scale(parsed.servers, plan(words, parsed.port, os.environ), parsed.cpus)
        described = describe(parsed.timeout_s)
    finally:
        ray.shutdown()
    for name, found in described.items():
        print(json.dumps({"name": name, **found}))
    return 0 if all(found.get("live") for found in described.values()) else 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Policy servers on the nodes of a Ray cluster, one a node.")
    parser.add_argument("--address", default="auto", help="of the cluster; auto: the one that this machine is in")
    parser.add_argument("--cpus", type=float, default=1.0, help="that Ray counts for each server (default 1)")
    parser.add_argument("--timeout-s", type=float, default=180.0, help="to wait for each server (default 180)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="have so many servers, and say where they are")
    up.add_argument("policies", nargs="*", metavar="NAME=FOLDER", help="as for `policy-server serve`")
    up.add_argument("--servers", type=int, required=True, help="how many; those beyond are stopped")
    up.add_argument("--port", type=int, default=8000, help="of each server on its node; 0: a free one (default 8000)")
    up.add_argument("--server", default="policy-server", help="command on the nodes (default policy-server)")
    commands.add_parser("list", help="say where the servers are")
    commands.add_parser("down", help="stop all servers")
    return parser.parse_args(arguments)


def plan(words: Sequence[str], port: int, environment: Mapping[str, str]) -> ServerPlan:
    """Returns what each actor starts; of the environment, the settings of servers go with it."""
    settings = {n: v for n, v in environment.items() if n.startswith("POLICY_SERVER_") and n not in _OWN}
    program = Path(__file__).with_name("run_child.py").read_text()
    return ServerPlan(tuple(words), settings, port, program)


def scale(servers: int, wanted: ServerPlan | None, cpus: float) -> None:
    """Has Ray run so many servers, named policy-server-0 and on; those that run already stay as they are."""
    # Nodes have Ray and the server, and nothing of this folder.
    ray.cloudpickle.register_pickle_by_value(server_actor)
    there = names()
    for number in range(servers):
        if (name := f"policy-server-{number}") not in there:
            ray.remote(ServerActor).options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=cpus,
                resources={RESOURCE: 1},
                max_restarts=-1,
                max_concurrency=4,
            ).remote(wanted)
    for name in there:
        if int(name.rpartition("-")[2]) >= servers:
            _end(name)


def _end(name: str) -> None:
    actor = ray.get_actor(name, namespace=NAMESPACE)
    try:
        ray.get(actor.stop.remote(), timeout=60)
    except (ray.exceptions.RayError, TimeoutError) as error:
        print(f"{name} did not stop by itself: {type(error).__name__}", file=sys.stderr)
    ray.kill(actor, no_restart=True)


def names() -> list[str]:
    """The servers that there are, also those for which Ray has no node yet."""
    found = [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE
    ]
    return sorted((name for name in found if name.startswith("policy-server-")), key=lambda name: (len(name), name))


def describe(timeout_s: float) -> dict[str, dict[str, Any]]:
    """Where each server is, by name, once it answers; one without a node, or that is started again, has `error`."""
    actors = {name: ray.get_actor(name, namespace=NAMESPACE) for name in names()}
    asked = {name: actor.wait_until_live.remote(timeout_s) for name, actor in actors.items()}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s + 5)
    return {name: _answer(answer) for name, answer in asked.items()}


def _answer(asked: Any) -> dict[str, Any]:
    try:
        described: dict[str, Any] = ray.get(asked, timeout=0.1)
        return described
    except ray.exceptions.GetTimeoutError:
        return {"error": "no node has room for it, or it does not answer"}
    except ray.exceptions.RayError as error:
        return {"error": str(error).splitlines()[0]}


if __name__ == "__main__":
    sys.exit(main())
