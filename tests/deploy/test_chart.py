"""deploy/kubernetes: rendered by Helm's own library for every values file, and equal to the server's own settings."""

import functools
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import __version__
from app.metric_table import METRICS, PREFIX
from app.settings import all_settings, settings_from, variable
from tests.support.server import ROOT
from tests.support.variables import known_variables

CHART = ROOT / "deploy" / "kubernetes"
PYTHON = ROOT / ".deploy" / "bin" / "python"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
VALUES: dict[str, Any] = {"default": {}} | {
    file.name.removesuffix("-values.yaml"): yaml.safe_load(file.read_text()) for file in CI
}
# What the chart decides, and its users do not.
OWN = {"host", "port", "state_dir", "fleet", "advertise", "experience_dir"}
# What reaches no other machine, or a port that the chart does not publish.
NOT_OFFERED = {"uds", "uds_mode", "uds_owner", "grpc_port", "openpi"}
LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "managed-by")}


def asked_of_helm(*values: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What tests/deploy/render_chart.py prints for each."""
    if not PYTHON.exists():
        pytest.skip("`make test-deploy` has not been run: there is no environment with Helm")
    words: list[str | Path] = []
    for number, one in enumerate(values):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(one))
        words += ["robots", "lab", file]
    command = [PYTHON, ROOT / "tests" / "deploy" / "render_chart.py", CHART, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return dict(zip(VALUES, asked_of_helm(*VALUES.values(), folder=tmp_path_factory.mktemp("values")), strict=True))


@pytest.fixture(params=list(VALUES))
def objects(request: pytest.FixtureRequest, rendered: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """All that the chart makes of one values file."""
    return documents(rendered[request.param])


def documents(answer: dict[str, Any]) -> list[dict[str, Any]]:
    assert "refused" not in answer, answer
    texts = [text for name, text in answer["files"].items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def the(objects: list[dict[str, Any]], kind: str, component: str = "server") -> dict[str, Any]:
    (found,) = [
        o for o in objects if o["kind"] == kind and o["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {o["kind"] for o in objects}


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def variables(objects: list[dict[str, Any]]) -> dict[str, str | None]:
    """The environment of the server's container; None for what comes from a Secret, or from the pod."""
    return {entry["name"]: entry.get("value") for entry in container(objects)["env"]}


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for made in objects:
        if made["kind"] == "Deployment":
            yield made["spec"]["template"]


# Helm, and Kubernetes.


def test_helms_linter_has_no_complaint(tmp_path: Path) -> None:
    (answer,) = asked_of_helm(folder=tmp_path)
    assert answer["lint"]["errors"] == []
    assert [message["error"] for message in answer["lint"]["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", VALUES)
def test_what_is_made_fits_kubernetes_schemas(rendered: dict[str, dict[str, Any]], name: str) -> None:
    assert len(documents(rendered[name])) >= 4
    assert rendered[name]["problems"] == []


def test_a_mistake_in_a_template_would_be_noticed(tmp_path: Path) -> None:
    """By the schemas, through what a values file may put anywhere."""
    (answer,) = asked_of_helm({"tolerations": [{"key": "a", "operators": "Exists"}]}, folder=tmp_path)
    assert len(answer["problems"]) == 3, "one for each version of Kubernetes"


def test_every_kind_is_made_by_some_values_file(rendered: dict[str, dict[str, Any]]) -> None:
    made = set[str]().union(*(kinds(documents(answer)) for answer in rendered.values()))
    assert made == {
        *("Deployment", "Service", "Secret", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler"),
        *("NetworkPolicy", "ServiceMonitor"),
    }
    templates = {f"policy-server/templates/{file.name}" for file in (CHART / "templates").glob("[!_]*")}
    assert templates == set[str]().union(*(answer["files"] for answer in rendered.values()))


def test_labels_are_the_recommended_ones_and_selectors_find_their_pods(objects: list[dict[str, Any]]) -> None:
    found = [template["metadata"]["labels"] for template in pods(objects)]
    for made in objects:
        assert made["metadata"]["labels"].keys() >= LABELS
        assert made["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
        assert made["metadata"]["namespace"] == "lab"
        selector = made.get("spec", {}).get("selector") or made.get("spec", {}).get("podSelector") or {}
        wanted = selector.get("matchLabels", selector if made["kind"] == "Service" else {}).items()
        assert not wanted or any(wanted <= labels.items() for labels in found), made["metadata"]["name"]
    names = [(made["kind"], made["metadata"]["name"]) for made in objects]
    assert len(set(names)) == len(names)


# The server's own settings.


def test_the_chart_has_the_version_of_the_server() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_schema_has_every_setting_with_its_type_bounds_and_help() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    expected = {}
    for setting in all_settings():
        if setting.metadata["secret"] or setting.name in OWN | NOT_OFFERED:
            continue
        kind = {bool: "boolean", int: "integer", float: "number", str: "string"}[type(setting.default)]
        is_number = kind in ("integer", "number")
        bounds = {"minimum": setting.metadata["least"], "maximum": setting.metadata["most"]} if is_number else {}
        choices = list(setting.metadata["choices"])
        expected[setting.name] = {
            "description": setting.metadata["help"],
            **({"enum": choices} if choices else {"type": kind}),
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }
    assert schema["properties"] == expected
    assert schema["additionalProperties"] is False


def test_variables_are_the_servers(objects: list[dict[str, Any]]) -> None:
    found = variables(objects)
    others = {name for name in found if name == "POD_IP" or name.startswith("OTEL_")}
    assert found.keys() - others <= known_variables()
    given = {name: _filled_in(text) for name, text in found.items() if text is not None}
    settings_from(["p=/p"], {}, given)  # raises where one cannot be read


def _filled_in(text: str) -> str:
    """As Kubernetes does, with the address of a pod."""
    return text.replace("$(POD_IP)", "::1" if "[" in text else "10.0.0.1")


def test_open_telemetrys_variables_are_given_to_it(rendered: dict[str, dict[str, Any]]) -> None:
    wanted = VALUES["external"]["openTelemetry"]
    assert variables(documents(rendered["external"])).items() >= wanted.items()


@pytest.mark.parametrize("name", VALUES)
def test_settings_of_the_values_are_those_of_the_server(rendered: dict[str, dict[str, Any]], name: str) -> None:
    found = variables(documents(rendered[name]))
    given = {key: _filled_in(text) for key, text in found.items() if text is not None}
    settings = settings_from([] if "POLICY_SERVER_POLICIES" in given else ["p=/p"], {}, given)
    for setting, value in VALUES[name].get("settings", {}).items():
        assert getattr(settings, setting) == value, setting
    assert [f"{one.name}={one.folder}" for one in settings.policies] == VALUES[name].get("policies", {}).get(
        "serve", ["p=/p"]
    )
    assert (settings.port, settings.state_dir) == (8000, "/state")


def test_every_setting_reaches_the_server_as_it_was_given(tmp_path: Path) -> None:
    """Numbers above all: to Helm they are floats."""
    other = {}
    for setting in all_settings():
        if setting.metadata["secret"] or setting.name in OWN | NOT_OFFERED:
            continue
        if isinstance(setting.default, bool):
            other[setting.name] = not setting.default
        elif isinstance(setting.default, int):
            other[setting.name] = setting.metadata["most"] or 10**9 + 1
        elif isinstance(setting.default, float):
            other[setting.name] = setting.metadata["most"] / 4
        else:
            other[setting.name] = next((c for c in setting.metadata["choices"] if c != setting.default), "given")
    (answer,) = asked_of_helm({"settings": other}, folder=tmp_path)
    given = {name: text for name, text in variables(documents(answer)).items() if text is not None}
    settings = settings_from(["p=/p"], {}, given)
    assert {name: getattr(settings, name) for name in other} == other
    assert given.keys() >= {variable(name) for name in other}


def test_ports_and_probes_are_the_servers(objects: list[dict[str, Any]]) -> None:
    server = container(objects)
    assert variables(objects)["POLICY_SERVER_PORT"] == "8000"
    assert server["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
    assert "EXPOSE 8000" in (ROOT / "Dockerfile").read_text()
    probes = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    (port,) = the(objects, "Service")["spec"]["ports"]
    assert (port["name"], port["targetPort"]) == ("http", "http")


def test_routes_of_probes_and_monitor_are_served() -> None:
    from app.api.routes.health import health_router

    router = health_router(None, None)  # type: ignore[arg-type]
    assert {route.path for route in router.routes} >= {"/livez", "/readyz", "/metrics"}  # type: ignore[attr-defined]


def test_a_pod_is_as_closed_as_the_container_of_the_compose_file(objects: list[dict[str, Any]]) -> None:
    (uid,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for template in pods(objects):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a Service named policy-server would set POLICY_SERVER_PORT"
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert one["resources"]["limits"]["memory"]
    assert the(objects, "Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(uid)


def test_a_stop_has_time_for_what_was_accepted(objects: list[dict[str, Any]]) -> None:
    spec = the(objects, "Deployment")["spec"]["template"]["spec"]
    wait = int(container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    deadline = settings_from(["p=/p"], {}, {}).deadline_ms / 1000
    assert spec["terminationGracePeriodSeconds"] > wait + deadline


# What values choose.


def test_one_server_agrees_with_none(rendered: dict[str, dict[str, Any]]) -> None:
    for name in ("default", "single"):
        made = documents(rendered[name])
        assert not {variable for variable in variables(made) if "FLEET" in variable or "ADVERTISE" in variable}
        assert "PodDisruptionBudget" not in kinds(made)


@pytest.mark.parametrize(
    ("name", "url", "advertised"),
    [
        ("fleet", "redis://robots-policy-server-agreement:6379/0", "http://$(POD_IP):8000"),
        ("external", None, "http://$(POD_IP):8000"),
        ("named", None, "http://[$(POD_IP)]:8000"),
    ],
)
def test_servers_of_a_fleet_are_known_by_their_pods_addresses(
    rendered: dict[str, dict[str, Any]], name: str, url: str | None, advertised: str
) -> None:
    made = documents(rendered[name])
    found = variables(made)
    assert found["POLICY_SERVER_FLEET_URL"] == url
    assert found["POLICY_SERVER_ADVERTISE"] == advertised
    assert found.get("POLICY_SERVER_HOST") == ("::" if "[" in advertised else None), "where nothing else can be reached"
    assert list(found).index("POD_IP") < list(found).index("POLICY_SERVER_ADVERTISE"), "or it is not filled in"
    (pod_ip,) = [entry["valueFrom"] for entry in container(made)["env"] if entry["name"] == "POD_IP"]
    assert pod_ip == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert found["POLICY_SERVER_FLEET"] == ("robots" if name == "named" else "lab.robots-policy-server")


def test_the_charts_redis_are_where_the_servers_look(rendered: dict[str, dict[str, Any]]) -> None:
    made = documents(rendered["fleet"])
    services = {o["metadata"]["name"]: o["spec"]["ports"][0]["port"] for o in made if o["kind"] == "Service"}
    for name in ("FLEET", "SESSION"):
        host, _, port = str(variables(made)[f"POLICY_SERVER_{name}_URL"]).removeprefix("redis://").partition(":")
        assert services[host] == int(port.removesuffix("/0"))
    assert len({variables(made)[f"POLICY_SERVER_{name}_URL"] for name in ("FLEET", "SESSION")}) == 2


def test_tokens_and_urls_come_from_secrets_alone(rendered: dict[str, dict[str, Any]]) -> None:
    made = documents(rendered["external"])
    entries = {entry["name"]: entry["valueFrom"] for entry in container(made)["env"] if "valueFrom" in entry}
    keys = VALUES["external"]["secret"]["keys"]
    assert "Secret" not in kinds(made)
    assert {name: entry["secretKeyRef"] for name, entry in entries.items() if "secretKeyRef" in entry} == {
        f"POLICY_SERVER_{name}": {"name": "policies", "key": keys[key]}
        for name, key in (
            ("ADMIN_TOKEN", "adminToken"),
            ("DATA_TOKEN", "dataToken"),
            ("FLEET_URL", "fleetUrl"),
            ("SESSION_URL", "sessionUrl"),
        )
    }
    secrets = {variable(setting.name) for setting in all_settings() if setting.metadata["secret"]}
    assert secrets <= {name for name, text in variables(made).items() if text is None}
    single = documents(rendered["single"])
    assert the(single, "Secret")["stringData"] == {"admin-token": "not-a-real-token"}


def test_servers_are_added_by_a_metric_of_the_server(rendered: dict[str, dict[str, Any]]) -> None:
    (metric,) = the(documents(rendered["external"]), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "policy_server_requests_in_progress"
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "4"}
    assert "replicas" not in the(documents(rendered["external"]), "Deployment")["spec"]
    assert "answer_seconds" in {metric.name for metric in METRICS}
    source = f"{PREFIX}answer_seconds_sum"
    assert source in (CHART / "values.yaml").read_text()
    (rule,) = re.findall(r"^```yaml\n(rules:.*?)^```", _page("fleet"), re.DOTALL | re.MULTILINE)
    (rule,) = yaml.safe_load(rule)["rules"]
    assert source in rule["seriesQuery"]
    assert rule["name"]["as"] == "policy_server_requests_in_progress"


@functools.cache
def _page(name: str) -> str:
    return (ROOT / "docs" / "how-to" / f"{name}.md").read_text()


def test_a_monitor_finds_the_service_and_its_port(rendered: dict[str, dict[str, Any]]) -> None:
    made = documents(rendered["external"])
    monitor, service = the(made, "ServiceMonitor"), the(made, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_servers_may_reach_each_other_redis_and_a_collector_and_nothing_else(
    rendered: dict[str, dict[str, Any]],
) -> None:
    def reached(name: str) -> list[list[object]]:
        made = documents(rendered[name])
        (policy,) = [o for o in made if o["kind"] == "NetworkPolicy" and not o["metadata"]["name"].endswith("redis")]
        return [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["egress"]]

    assert reached("default") == [[53, 53]]
    assert reached("fleet") == [[53, 53], ["http"], ["redis"]]
    assert reached("external") == [[53, 53], ["http"], [6379, 6380], [4318]]
    assert "NetworkPolicy" not in kinds(documents(rendered["single"]))


REFUSED = {
    "several servers without a Redis": {"replicas": 2},
    "autoscaling.*": {"autoscaling": {"enabled": True, "minReplicas": 0}},
    "each serve a version of their own": {"autoscaling": {"enabled": True}},
    "is for one server": {"replicas": 2, "redis": {"enabled": True}, "state": {"existingClaim": "a"}},
    "expected the name of a Secret": {"secret": {"keys": {"dataToken": "data"}}},
    "expected one of them": {"secret": {"existingSecret": "a", "dataToken": "b"}},
    "names a Redis too": {"redis": {"enabled": True}, "secret": {"sessionUrl": "redis://a:1"}},
    "settings.*additional properties 'worker'": {"settings": {"worker": 2}},
    "workers": {"settings": {"workers": 65}},
    "replica": {"replica": 2},
    "fleetUrl": {"secret": {"fleetUrl": "http://redis.example"}},
    "port": {"settings": {"port": 9000}},
    "engine": {"settings": {"engine": "torch"}},
    "additional properties 'POLICY_SERVER_PORT'": {"openTelemetry": {"POLICY_SERVER_PORT": "9000"}},
}


def test_values_that_cannot_be_are_refused_with_the_reason(tmp_path: Path) -> None:
    answers = asked_of_helm(*REFUSED.values(), folder=tmp_path)
    for expected, answer in zip(REFUSED, answers, strict=True):
        assert re.search(expected, answer.get("refused", "taken"), re.DOTALL), (expected, answer)
