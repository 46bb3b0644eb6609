"""docker-compose.yml as Compose itself reads it. No engine is needed."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.support.server import ROOT
from tests.support.variables import known_variables

COMPOSE = ROOT / ".deploy" / "bin" / "docker-compose"


def read(*words: str, **env: str) -> dict[str, Any]:
    if not COMPOSE.exists():
        pytest.skip("`make test-deploy` has not been run: there is no environment with Compose")
    variables = {"PATH": os.environ["PATH"]} | env
    command = [COMPOSE, *words[:-1], "config", "--format", "json", *filter(None, words[-1:])]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_alone_there_is_one_server() -> None:
    assert read().keys() == {"server"}
    assert read(COMPOSE_PROFILES="sessions").keys() == {"server", "sessions"}


def test_the_profile_that_watches_adds_prometheus_and_grafana_to_the_server_or_to_the_fleet() -> None:
    assert read("--profile", "observe", "").keys() == {"server", "prometheus", "grafana"}
    both = read("--profile", "fleet", "--profile", "observe", "").keys()
    assert both - {"server"} == {*read("--profile", "fleet", "fleet"), "prometheus", "grafana"}
    # Not by COMPOSE_PROFILES, which would have the server keep its sessions in a Redis that is not there.
    assert "POLICY_SERVER_SESSION_URL" in read("--profile", "observe", "")["server"]["environment"]
    assert not read("--profile", "observe", "")["server"]["environment"]["POLICY_SERVER_SESSION_URL"]


def test_the_profile_of_the_fleet_starts_three_servers_two_redis_and_haproxy() -> None:
    fleet = {"fleet", "member-1", "member-2", "member-3", "agreement", "sessions"}
    assert read("--profile", "fleet", "fleet").keys() == fleet
    every = read("--profile", "fleet", "")
    assert every.keys() == fleet | {"server"}


def test_members_have_what_the_server_has_and_an_address_and_a_volume_of_their_own() -> None:
    given = {"POLICY_SERVER_WORKERS": "2", "ADMIN_TOKEN_FILE": "/dev/null", "POLICY_SERVER_FLEET": "blue"}
    services = read("--profile", "fleet", "fleet", **given)
    for number in (1, 2, 3):
        member = services[f"member-{number}"]
        variables = member["environment"]
        assert {name for name in variables if not name.startswith("OTEL_")} <= known_variables()
        assert variables["POLICY_SERVER_ADVERTISE"] == f"http://member-{number}:8000"
        assert (variables["POLICY_SERVER_WORKERS"], variables["POLICY_SERVER_FLEET"]) == ("2", "blue")
        assert variables["POLICY_SERVER_ADMIN_TOKEN_FILE"] == "/run/secrets/admin_token"
        assert [volume["source"] for volume in member["volumes"]] == [
            str(ROOT / "policies"),
            f"state-{number}",
            f"experience-{number}",
        ]
        assert "ports" not in member
        assert {name: one["condition"] for name, one in member["depends_on"].items()} == {
            "sessions": "service_healthy",
            "agreement": "service_healthy",
        }
