"""What docker-compose.yml says, with what stands in an .env filled in as Compose does it. No engine is needed."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from app.settings import settings_from
from tests.support.server import ROOT
from tests.support.variables import known_variables


def filled(text: str, env: Mapping[str, str]) -> str:
    """${NAME:-default} and ${NAME:+replacement}, the innermost first."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        given = env.get(name, "")
        return (given or word) if operator == ":-" else (word if given else "")

    while (after := re.sub(r"\$\{(\w+)(:[-+])([^${}]*)\}", value, text)) != text:
        text = after
    assert "${" not in text
    return text


def composed(**env: str) -> dict[str, Any]:
    return yaml.safe_load(filled((ROOT / "docker-compose.yml").read_text(), env))


def configured(service: str = "server", **env: str) -> dict[str, str]:
    """The environment of a server's container: names without a value are taken over where they are set."""
    given = composed(**env)["services"][service]["environment"]
    return {
        name: env[name] if text is None else text for name, text in given.items() if text is not None or name in env
    }


def test_logs_are_turned_over() -> None:
    for service in composed()["services"].values():
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def test_every_service_is_bounded_and_looked_after() -> None:
    for service in composed()["services"].values():
        assert re.fullmatch(r"[0-9]+[mg]", service["deploy"]["resources"]["limits"]["memory"])
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all("size=" in mount for mount in service.get("tmpfs", []))


def test_without_an_env_file_the_defaults_hold() -> None:
    settings = settings_from(["p=/p"], {}, configured())
    assert (settings.workers, settings.admin_token, settings.data_token, settings.session_url) == (1, "", "", "")


def test_workers_and_tokens_come_from_the_env_file() -> None:
    given = {"POLICY_SERVER_WORKERS": "3", "POLICY_SERVER_ADMIN_TOKEN": "a", "POLICY_SERVER_DATA_TOKEN": "d"}
    settings = settings_from(["p=/p"], {}, configured(**given))
    assert (settings.workers, settings.admin_token, settings.data_token) == (3, "a", "d")


@pytest.mark.parametrize("which", ["admin", "data"])
def test_tokens_in_files_are_secrets(which: str) -> None:
    env = {f"{which.upper()}_TOKEN_FILE": "./secrets/token"}
    assert configured(**env)[f"POLICY_SERVER_{which.upper()}_TOKEN_FILE"] == f"/run/secrets/{which}_token"
    whole = composed(**env)
    assert f"{which}_token" in whole["services"]["server"]["secrets"]
    assert whole["secrets"][f"{which}_token"]["file"] == "./secrets/token"
    assert composed()["secrets"][f"{which}_token"]["file"] == "/dev/null"


def test_the_profile_of_sessions_starts_redis_and_sets_its_url() -> None:
    whole = composed(COMPOSE_PROFILES="sessions")
    redis = whole["services"]["sessions"]
    assert "sessions" in redis["profiles"]
    assert configured(COMPOSE_PROFILES="sessions")["POLICY_SERVER_SESSION_URL"] == "redis://sessions:6379/0"
    assert whole["services"]["server"]["depends_on"]["sessions"] == {"condition": "service_healthy", "required": False}
    assert int(redis["command"][-1].removesuffix("mb")) < int(redis["deploy"]["resources"]["limits"]["memory"][:-1])
    own = configured(COMPOSE_PROFILES="sessions", POLICY_SERVER_SESSION_URL="redis://mine:1/0")
    assert own["POLICY_SERVER_SESSION_URL"] == "redis://mine:1/0"


def test_the_base_and_redis_may_be_held_by_digest() -> None:
    digest = "sha256:" + 64 * "a"
    held = {"BASE_IMAGE": f"python:3.11-slim-bookworm@{digest}", "REDIS_IMAGE": f"redis:7-alpine@{digest}"}
    services = composed(**held)["services"]
    assert services["server"]["build"]["args"]["BASE"] == held["BASE_IMAGE"]
    assert services["sessions"]["image"] == held["REDIS_IMAGE"]
    file = (ROOT / "Dockerfile").read_text()
    without = composed()["services"]
    assert f"ARG BASE={without['server']['build']['args']['BASE']}\n" in file
    assert all(
        line == "FROM ${BASE}" or line.startswith(("FROM ${BASE} AS ", "FROM uv AS "))
        for line in file.splitlines()
        if line.startswith("FROM ")
    )
    assert without["sessions"]["image"] == "redis:7-alpine"


def test_what_the_example_shows_is_read() -> None:
    shown = re.findall(r"^#(\w+)=", (ROOT / "deploy" / "example.env").read_text(), re.MULTILINE)
    text = (ROOT / "docker-compose.yml").read_text()
    assert len(shown) > 8
    for name in shown:
        assert name in text, name
    assert {name for name in shown if name.startswith("POLICY_SERVER_")} <= known_variables()


# Prometheus and Grafana.


def test_what_watches_the_server_knows_its_name_and_reads_files_that_are_there() -> None:
    services = composed()["services"]
    watching = {name for name, service in services.items() if "observe" in service.get("profiles", ())}
    assert watching == {"prometheus", "grafana"}
    for name in watching:
        for mounted in services[name]["volumes"]:
            source = mounted.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists()
        (port,) = services[name]["ports"]
        assert port.startswith("127.0.0.1:")
    config = yaml.safe_load((ROOT / "deploy" / "observe" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["server", *MEMBERS], 8000)
    assert services.keys() >= set(found["names"])


# The fleet.

MEMBERS = ("member-1", "member-2", "member-3")


def dependencies(services: Mapping[str, Any], name: str) -> set[str]:
    """What is started with a service."""
    direct = set(services[name].get("depends_on", ()))
    return direct.union(*(dependencies(services, one) for one in direct))


def test_the_fleet_is_three_servers_redis_and_haproxy() -> None:
    services = composed()["services"]
    assert dependencies(services, "fleet") == {*MEMBERS, "sessions", "agreement"}
    assert {name for name, service in services.items() if "fleet" in service.get("profiles", ())} == {
        *("fleet", *MEMBERS, "sessions", "agreement")
    }
    assert "profiles" not in services["server"]


def test_a_member_is_the_server_with_an_address_and_a_state_of_its_own() -> None:
    whole = composed()
    own = {"profiles", "environment", "depends_on", "ports", "volumes"}
    for name in MEMBERS:
        member, server = whole["services"][name], whole["services"]["server"]
        assert {key: member[key] for key in member.keys() - own} == {key: server[key] for key in server.keys() - own}
        folders, number = [volume.partition(":")[0] for volume in member["volumes"][1:]], name[-1]
        assert folders == [f"state-{number}", f"experience-{number}"]
        assert {*folders} <= whole["volumes"].keys()
        assert member["volumes"][0] == server["volumes"][0]
        assert member["environment"]["POLICY_SERVER_ADVERTISE"] == f"http://{name}:8000"
        assert not member["ports"], "who reaches a member past HAProxy could name any client"


def test_members_agree_in_a_redis_that_sessions_cannot_fill() -> None:
    services = composed()["services"]
    for name in MEMBERS:
        variables = configured(name)
        assert variables["POLICY_SERVER_FLEET_URL"] == "redis://agreement:6379/0"
        assert variables["POLICY_SERVER_SESSION_URL"] == "redis://sessions:6379/0"
        assert set(variables) <= known_variables()
    assert "POLICY_SERVER_FLEET_URL" not in configured()
    redis = services["agreement"]
    assert int(redis["command"][-1].removesuffix("mb")) < int(redis["deploy"]["resources"]["limits"]["memory"][:-1])
    own = configured("member-2", POLICY_SERVER_FLEET_URL="redis://mine:1/0", POLICY_SERVER_FLEET="blue")
    assert (own["POLICY_SERVER_FLEET_URL"], own["POLICY_SERVER_FLEET"]) == ("redis://mine:1/0", "blue")


def test_haproxy_knows_the_members_by_their_names() -> None:
    preset = dict(re.findall(r"^ +presetenv (\w+) (\S+)$", (ROOT / "deploy" / "haproxy.cfg").read_text(), re.MULTILINE))
    members = {name: configured(name)["POLICY_SERVER_ADVERTISE"].removeprefix("http://") for name in MEMBERS}
    assert preset == {"LISTEN": "*:8000", "MEMBER_1": members["member-1"], "MEMBER_2": members["member-2"]} | {
        "MEMBER_3": members["member-3"]
    }
    (port,) = composed()["services"]["fleet"]["ports"]
    assert port == "127.0.0.1:8080:8000"
    (mounted,) = composed()["services"]["fleet"]["volumes"]
    assert (ROOT / mounted.split(":")[0]).is_file()
