"""A Ray cluster of three nodes on this machine, a server of one fleet on each; an actor is killed, then a node.

    .ray/bin/python tests/deploy/ray_cluster.py SERVER_COMMAND NAME=FOLDER

Prints what it has seen as one JSON object, in its last line. Run by the environment of requirements-ray.lock.
"""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "ray"))
import launch

PATIENCE_S = 300.0
ROOM = {"num_cpus": 1, "resources": {launch.RESOURCE: 1}, "object_store_memory": 80_000_000}


def main(server: str, policy: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=dict(ROOM))
    nodes = [cluster.add_node(**ROOM) for _ in range(2)]
    ray.init(address=cluster.address, namespace=launch.NAMESPACE, log_to_driver=False, logging_level="warning")
    seen: dict[str, Any] = {}
    try:
        wanted = launch.plan([*server.split(), "serve", policy], 0, os.environ)
        launch.scale(3, wanted, cpus=1)
        seen["started"] = first = described(3)
        seen["members_started"] = members(3)

        killed = first["policy-server-1"]
        os.kill(killed["pid"], signal.SIGKILL)
        seen["actor_killed"] = second = again("policy-server-1", killed)
        seen["its_server_ended"] = ended(killed["url"])
        seen["members_again"] = members(3)

        (child,) = children(second["policy-server-0"]["pid"])
        (control,) = children(child)
        os.kill(control, signal.SIGKILL)
        seen["server_killed"] = again("policy-server-0", second["policy-server-0"])

        on_node = {found["node"]: name for name, found in described(3).items()}
        lost = nodes[0]
        name = on_node[lost.node_id]
        before = described(3)[name]
        cluster.remove_node(lost, allow_graceful=False)
        seen["its_server_ended_too"] = ended(before["url"])
        seen["without_a_node"] = launch.describe(3.0)[name]
        nodes[0] = cluster.add_node(**ROOM)
        seen["node_replaced"] = again(name, before)
        seen["new_node"] = nodes[0].node_id
        seen["members_on_new_node"] = members(3)
        seen["reloaded"] = admin(next(iter(described(3).values()))["url"], "/admin/policies/cartpole/reload", b"{}")

        last = described(3)
        launch.scale(2, wanted, cpus=1)
        seen["two"] = described(2)
        seen["third_ended"] = ended(last["policy-server-2"]["url"])
        launch.scale(0, None, cpus=1)
        seen["none"] = launch.names()
        seen["all_ended"] = all(ended(found["url"]) for found in last.values())
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(seen))


def described(count: int) -> dict[str, Any]:
    """All servers, once so many are live; each also says with which weights it answers."""
    found = until(lambda: (now := launch.describe(PATIENCE_S)) and all(one.get("live") for one in now.values()) and now)
    assert len(found) == count, found
    return {name: {**one, "answer": action(one["url"])} for name, one in found.items()}


def again(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """All servers, once the one of that name is live in another process."""
    until(lambda: launch.describe(PATIENCE_S)[name].get("pid", before["pid"]) != before["pid"])
    return described(3)


def members(count: int) -> list[str]:
    """The URLs of the fleet's servers, once so many serve: those that were killed hold a lease for some seconds."""

    def serving() -> list[str] | None:
        urls = sorted(one["url"] for one in launch.describe(PATIENCE_S).values() if one.get("live"))
        for url in urls[:1]:
            found = admin(url, "/admin/fleet")["members"]
            active = sorted(one["url"] for one in found if one["policies"]["cartpole"]["state"] == "active")
            if len(active) == len(found) == count and active == urls:
                return active
        return None

    return until(serving)


def admin(url: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    token = os.environ["POLICY_SERVER_ADMIN_TOKEN"]
    request = urllib.request.Request(url + path, body, {"Authorization": f"Bearer {token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.loads(answer.read())


def action(url: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/action", b'{"observation": [0.1, 0, 0, 0]}')
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.loads(answer.read())


def ended(url: str) -> bool:
    """Whether nothing answers there any more, after a while."""

    def refused() -> bool:
        try:
            action(url)
        except urllib.error.URLError as error:
            return isinstance(error.reason, ConnectionRefusedError)
        except OSError:
            pass
        return False

    return until(refused)


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
