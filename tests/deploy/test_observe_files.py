"""The files of deploy/observe by themselves: the dashboard's structure, and how long what is wrong has to last."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram

from app.metric_table import METRICS
from tests.deploy.test_observe import DASHBOARD, panels, queries
from tests.support.prometheus import ALERTS, OBSERVE, program
from tests.support.server import ROOT

PAGE = (ROOT / "docs" / "how-to" / "observe.md").read_text()
OURS = '{job="policy-server", instance="a:8000"}'


def names_of(expression: str) -> set[str]:
    return set(re.findall(r"policy_server_\w+", expression))


def test_the_dashboard_is_one_that_grafana_can_read() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(DASHBOARD)))
    assert used == {*variables, "__rate_interval", "__all"}
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["datasource"] == source, panel["title"]
        assert panel["type"] in ("timeseries", "stat", "table")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])
        assert all(target["datasource"] == source for target in panel["targets"])


def test_no_two_panels_lie_on_the_same_place() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for place in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(place, panel["title"]) == panel["title"]


def test_grafana_is_provisioned_with_what_the_dashboard_asks_for() -> None:
    provisioning = OBSERVE / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    scraped = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "policy-server.yml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert f"./deploy/observe/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]


def test_dashboard_and_alerts_ask_for_metrics_that_there_are_and_the_dashboard_for_all() -> None:
    known = {m.full_name for m in METRICS if m.kind is not Histogram}
    parts = {m.full_name: {m.full_name + end for end in ("_bucket", "_sum", "_count")} for m in METRICS if m.buckets}
    shown = set().union(*(names_of(query) for query in queries().values()))
    assert shown <= known.union(*parts.values())
    assert known - shown == {"policy_server_checkpoint_expected_seconds"}
    assert all(shown & names for names in parts.values())
    for alert in ALERTS.values():
        assert names_of(alert["expr"]) <= known.union(*parts.values())


def test_promtool_reads_every_query_and_every_file(tmp_path: Path) -> None:
    promtool = program("promtool")
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(queries().values())]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    for words in (["config", OBSERVE / "prometheus.yml"], ["rules", tmp_path / "queries.yml"]):
        done = subprocess.run([promtool, "check", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/how-to/observe.md#{name.lower()}"
    (section,) = re.findall(rf"^### {name}$(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert "*What to do:*" in section


def test_every_section_about_an_alert_is_about_one() -> None:
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == list(ALERTS)


# Of each alert, series of a value a minute that provoke it from the first one on, as promtool writes them.
WRONG: dict[str, dict[str, str]] = {
    "PolicyServerDown": {f"up{OURS}": "0x30"},
    "PolicyServerPolicyFailed": {"policy_server_ready": "0x30"},
    "PolicyServerCheckpointOverdue": {
        f"policy_server_activated_timestamp_seconds{OURS}": "-100x30",
        f"policy_server_checkpoint_expected_seconds{OURS}": "60x30",
    },
    "PolicyServerCheckpointsRefused": {"policy_server_refused_versions_total": "0+1x30"},
    "PolicyServerErrors": {
        'policy_server_answers_total{status="503"}': "0+2x30",
        'policy_server_answers_total{status="200"}': "0+98x30",
    },
    "PolicyServerSlow": {
        'policy_server_answer_seconds_bucket{le="0.5"}': "0+98x30",
        'policy_server_answer_seconds_bucket{le="1"}': "0+100x30",
        'policy_server_answer_seconds_bucket{le="+Inf"}': "0+100x30",
    },
    "PolicyServerQueueFull": {
        'policy_server_queue_requests{policy="p"}': "9x30",
        'policy_server_queue_limit_requests{policy="p"}': "10x30",
    },
    "PolicyServerRestarting": {'policy_server_restarts_total{process="worker"}': "0+1x30"},
    "PolicyServerSessionsNearlyFull": {"policy_server_sessions": "91x30", "policy_server_sessions_limit": "100x30"},
    "PolicyServerMemory": {
        f"policy_server_resident_memory_bytes{OURS}": "91x30",
        f"policy_server_memory_limit_bytes{OURS}": "100x30",
    },
    "PolicyServerFleetMemberLost": {"policy_server_fleet_members": "3 2x30"},
    "PolicyServerFleetLapsed": {"policy_server_fleet_lapses_total": "0 1x30"},
    "PolicyServerFleetVersionsDiffer": {
        'policy_server_fleet_epoch{job="policy-server",instance="a",policy="p"}': "3x30",
        'policy_server_fleet_epoch{job="policy-server",instance="b",policy="p"}': "2x30",
        'policy_server_fleet_leased{job="policy-server",instance="a"}': "1x30",
        'policy_server_fleet_leased{job="policy-server",instance="b"}': "1x30",
    },
}
# The same with values at the limit, at which nothing is wrong.
RIGHT: dict[str, dict[str, str]] = {
    "PolicyServerDown": {f"up{OURS}": "1x30"},
    "PolicyServerPolicyFailed": {"policy_server_ready": "1x30"},
    "PolicyServerCheckpointOverdue": {
        f"policy_server_activated_timestamp_seconds{OURS}": "-100x30",
        f"policy_server_checkpoint_expected_seconds{OURS}": "0x30",
    },
    "PolicyServerCheckpointsRefused": {"policy_server_refused_versions_total": "7x30"},
    "PolicyServerErrors": {
        'policy_server_answers_total{status="503"}': "0+1x30",
        'policy_server_answers_total{status="422"}': "0+99x30",
    },
    "PolicyServerSlow": {
        'policy_server_answer_seconds_bucket{le="0.5"}': "0+99x30",
        'policy_server_answer_seconds_bucket{le="+Inf"}': "0+100x30",
    },
    "PolicyServerQueueFull": {
        'policy_server_queue_requests{policy="p"}': "8x30",
        'policy_server_queue_limit_requests{policy="p"}': "10x30",
        'policy_server_errors_total{kind="does-not-fit-the-spec"}': "0+10x30",
    },
    "PolicyServerRestarting": {'policy_server_restarts_total{process="worker"}': "3x30"},
    "PolicyServerSessionsNearlyFull": {"policy_server_sessions": "90x30", "policy_server_sessions_limit": "100x30"},
    "PolicyServerMemory": {
        f"policy_server_resident_memory_bytes{OURS}": "90x30",
        f"policy_server_memory_limit_bytes{OURS}": "100x30",
    },
    "PolicyServerFleetMemberLost": {"policy_server_fleet_members": "2 3x30"},
    "PolicyServerFleetLapsed": {"policy_server_fleet_lapses_total": "1x30"},
    "PolicyServerFleetVersionsDiffer": {
        # The one that is behind takes no part: it is not ready.
        'policy_server_fleet_epoch{job="policy-server",instance="a",policy="p"}': "3x30",
        'policy_server_fleet_epoch{job="policy-server",instance="b",policy="p"}': "2x30",
        'policy_server_fleet_leased{job="policy-server",instance="a"}': "1x30",
        'policy_server_fleet_leased{job="policy-server",instance="b"}': "0x30",
    },
}
SECONDS = {"": 0, "30s": 30, "1m": 60, "2m": 120, "5m": 300}


def scenario(name: str, series: dict[str, str], fires_after_s: int | None) -> dict[str, Any]:
    """A test of promtool: an alert by that name fires after so many seconds and not before, or never."""
    up = {} if name == "PolicyServerDown" else {f"up{OURS}": "1x30"}
    given = [{"series": key, "values": values} for key, values in (series | up).items()]
    if fires_after_s is None:
        times = {1500: 0}
    else:
        # What is computed from two values or more is known a minute later than the first of them.
        known_s = 60 if any("+" in values or " " in values for values in series.values()) else 0
        times = {known_s + fires_after_s - 15: 0, known_s + fires_after_s: 1} if fires_after_s else {known_s: 1}
    checks = [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": f"{at}s"} for at in times
    ]
    for check, count in zip(checks, times.values(), strict=True):
        check["exp_samples"] = [{"labels": "{}", "value": 1}] if count else []
    return {"name": name, "interval": "1m", "input_series": given, "promql_expr_test": checks}


def test_an_alert_fires_after_its_time_and_not_before_and_not_at_the_limit(tmp_path: Path) -> None:
    assert WRONG.keys() == RIGHT.keys() == ALERTS.keys()
    tests = [scenario(name, series, SECONDS[ALERTS[name].get("for", "")]) for name, series in WRONG.items()]
    tests += [scenario(name, series, None) for name, series in RIGHT.items()]
    whole = {"rule_files": [str(OBSERVE / "alerts.yml")], "evaluation_interval": "5s", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(whole, sort_keys=False))
    done = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
