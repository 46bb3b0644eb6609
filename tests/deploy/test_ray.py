"""deploy/ray on a Ray cluster of three nodes, all on this machine, in an environment of its own: `make test-ray`."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import policies
from tests.support.redis_server import redis_running
from tests.support.server import ROOT, environment

PYTHON = ROOT / ".ray" / "bin" / "python"
ALL = ["policy-server-0", "policy-server-1", "policy-server-2"]
Servers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/deploy/ray_cluster.py has seen."""
    if not PYTHON.exists():
        pytest.skip("`make test-ray` has not been run: there is no environment with Ray")
    export = tmp_path_factory.mktemp("ray") / "cartpole"
    policies.export("cartpole", export)
    command = [PYTHON, ROOT / "tests" / "deploy" / "ray_cluster.py", f"{sys.executable} -m app", f"cartpole={export}"]
    with redis_running() as redis:
        variables = environment(
            PYTHONPATH=str(ROOT), PATH=os.environ["PATH"], RAY_USAGE_STATS_ENABLED="0", POLICY_SERVER_FLEET_URL=redis
        )
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def nodes(servers: Servers) -> set[str]:
    return {found["node"] for found in servers.values()}


def urls(servers: Servers) -> set[str]:
    return {found["url"] for found in servers.values()}


@pytest.mark.parametrize("when", ["started", "actor_killed", "server_killed", "node_replaced"])
def test_there_are_three_servers_each_on_a_node_of_its_own(seen: dict[str, Any], when: str) -> None:
    assert sorted(seen[when]) == ALL
    assert len(nodes(seen[when])) == len(urls(seen[when])) == 3
    for found in seen[when].values():
        assert found["live"] is True
        assert found["answer"]["version"] == "export"


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [("started", "actor_killed", "policy-server-1"), ("actor_killed", "server_killed", "policy-server-0")],
)
def test_what_is_killed_is_started_again_and_nothing_else(
    seen: dict[str, Any], before: str, after: str, name: str
) -> None:
    """An actor, or the server that it had started: they end together."""
    changed = {one for one in ALL if seen[before][one]["pid"] != seen[after][one]["pid"]}
    assert changed == {name}
    assert nodes(seen[before]) == nodes(seen[after])
    assert seen["its_server_ended"] is True, "the server of an actor that was killed, whose port another one may need"


def test_a_server_that_is_started_again_joins_the_fleet_and_takes_part_in_a_reload(seen: dict[str, Any]) -> None:
    for when, members in (("started", "members_started"), ("actor_killed", "members_again")):
        assert set(seen[members]) == urls(seen[when])
    assert set(seen["members_on_new_node"]) == urls(seen["node_replaced"])
    assert (seen["reloaded"]["version"], seen["reloaded"]["members"]) == ("export", 3)


def test_the_server_of_a_lost_node_moves_to_another_one(seen: dict[str, Any]) -> None:
    assert seen["its_server_ended_too"] is True
    assert seen["without_a_node"]["error"]
    assert seen["new_node"] not in nodes(seen["server_killed"])
    assert seen["new_node"] in nodes(seen["node_replaced"])


def test_servers_are_stopped_where_fewer_are_wanted(seen: dict[str, Any]) -> None:
    assert sorted(seen["two"]) == ALL[:2]
    assert seen["third_ended"] is True
    assert seen["none"] == []
    assert seen["all_ended"] is True
