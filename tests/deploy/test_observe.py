"""Dashboard and alerts of deploy/observe, evaluated by a real Prometheus; and the log of the same server as JSON.

One server is loaded, and then harmed in every way that there is an alert for; the tests look at what was seen then.
"""

import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import pytest

from app.metric_table import METRICS
from tests.support.policies import NumberTrainer
from tests.support.prometheus import ALERTS, OBSERVE, Prometheus, program, until
from tests.support.redis_server import running_redis
from tests.support.server import RunningServer, serving

DASHBOARD: dict[str, Any] = json.loads((OBSERVE / "grafana" / "dashboards" / "policy-server.json").read_text())
# What Grafana puts in, and the values that it would have.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$policy": ".*"}
OPTIONS = (
    "--log-format", "json", "--checkpoint-expected-s", "1", "--queue-limit-requests", "4", "--sessions-limit", "2",
    "--sessions-per-client", "2", "--no-watch",
)  # fmt: skip


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """The queries of the dashboard, by their place in it, as Grafana would send them."""
    found = {f"{p['title']} {t['refId']}": t["expr"] for p in panels() for t in p["targets"]}
    for annotation in DASHBOARD["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    for variable, value in VARIABLES.items():
        found = {place: text.replace(variable, value) for place, text in found.items()}
    return found


@dataclass
class Seen:
    """What Prometheus and the log had at the end. `answered`: places of queries → whether there was data."""

    answered: dict[str, bool] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)
    metrics: str = ""
    lines: list[str] = field(default_factory=list)
    has_redis: bool = False


class Load:
    """Requests to the server until the block ends, good ones and bad ones."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as client:
            while not self._stop.wait(0.02):
                with contextlib.suppress(httpx.TransportError):  # the worker that is killed
                    for observation in ([0, 0, 0, 0], [[1e30, 0, 0, 0]] * 3, [0]):
                        client.post("/action", json={"observation": observation, "options": {"timeout_ms": 2000}})


@contextlib.contextmanager
def stale_member(url: str) -> Iterator[str]:
    """Yields the address of the server's metrics, but with the epoch of a member that is changes behind."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = httpx.get(f"{url}/metrics", trust_env=False).text
            body = re.sub(r"^(policy_server_fleet_epoch\{.*\}) .*$", r"\1 0", text, flags=re.MULTILINE).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def fires(prometheus: Prometheus, *alerts: str) -> None:
    """Waits for alerts; whether they came is up to the tests."""
    until(lambda: prometheus.fired() >= set(alerts))


def corrupted(trainer: NumberTrainer, number: int) -> str:
    name = trainer.publish(number)
    (data,) = (trainer.folder / "checkpoints" / name / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:-8])
    return name


def swap(server: RunningServer, trainer: NumberTrainer) -> None:
    server.reload("p", checkpoint=trainer.publish(1)).raise_for_status()
    assert server.reload("p", checkpoint=corrupted(trainer, 2)).status_code == 409


def try_canary(server: RunningServer, trainer: NumberTrainer) -> None:
    """An episode with a reward, in a session of a canary, beside a shadow; the trial ends with it."""
    path = "/admin/policies/p/traffic"
    wish = {"checkpoint": trainer.publish(3), "share": 1.0, "promote_after_episodes": 1}
    shadow = {"checkpoint": trainer.publish(4)}
    server.admin.put(path, json={"canary": wish, "shadow": shadow}).raise_for_status()
    body = {"observation": [0, 0, 0, 0]}
    id_ = server.http.post("/sessions", json=body).raise_for_status().json()["id"]
    server.http.post(f"/sessions/{id_}/action", json=body | {"reward": 1.0, "step_type": 2}).raise_for_status()
    server.http.delete(f"/sessions/{id_}").raise_for_status()
    until(lambda: "decision" in server.admin.get(path).raise_for_status().json())
    server.admin.put(path, json={}).raise_for_status()


def ask(server: RunningServer, timeout_ms: int, _: int) -> int:
    """Returns the status of an answer."""
    body = {"observation": [0, 0, 0, 0], "options": {"timeout_ms": timeout_ms}}
    return server.http.post("/action", json=body).status_code


def overload(server: RunningServer) -> bool:
    """A pause in which requests wait until their deadlines, more of them than may; returns whether it was one."""
    server.admin.post("/admin/policies/p/pause", json={"mode": "wait"}).raise_for_status()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(partial(ask, server, 2500), range(8)))
    server.admin.post("/admin/policies/p/resume").raise_for_status()
    return {429, 504} <= statuses


def harm(server: RunningServer, prometheus: Prometheus, trainer: NumberTrainer) -> None:
    """Provokes one alert after the other; those of the start have fired by then."""
    swap(server, trainer)
    fires(prometheus, "PolicyServerCheckpointsRefused")
    # Again and again: one in a hundred answers is slow the sooner, the slower the machine is.
    until(lambda: not overload(server) or prometheus.fired() >= {"PolicyServerSlow", "PolicyServerQueueFull"})
    server.admin.post("/admin/policies/p/pause", json={"mode": "reject"}).raise_for_status()
    fires(prometheus, "PolicyServerErrors")  # the load is refused with 503
    server.admin.post("/admin/policies/p/resume").raise_for_status()
    os.kill(server.processes("app.worker")[0], signal.SIGKILL)
    fires(prometheus, "PolicyServerRestarting")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("observe")
    trainer, found = NumberTrainer(folder / "p"), Seen()
    (folder / "broken").mkdir()
    with contextlib.ExitStack() as stack:
        found.has_redis = shutil.which("redis-server") is not None
        redis = stack.enter_context(running_redis()) if found.has_redis else None
        env = {"POLICY_SERVER_FLEET_URL": redis.url} if redis is not None else {}
        policies = {"p": trainer.folder, "broken": folder / "broken"}
        kept = ("--experience-dir", str(folder / "experience"))
        server = stack.enter_context(serving(policies, *OPTIONS, *kept, POLICY_SERVER_TYPO="1", **env))
        try_canary(server, trainer)
        for _ in range(2):
            server.http.post("/sessions", json={"observation": [0, 0, 0, 0]}).raise_for_status()
        if shutil.which("prometheus"):
            prometheus = Prometheus(folder)
            stack.enter_context(prometheus.running())
            prometheus.scrape("server", server.url.removeprefix("http://"))
            with Load(server.url):
                fires(prometheus, "PolicyServerSessionsNearlyFull")
                harm(server, prometheus, trainer)
                _answer_all(prometheus, found)
                if redis is not None:
                    with stale_member(server.url) as address:
                        prometheus.scrape("stale", address)
                        fires(prometheus, "PolicyServerFleetVersionsDiffer")
                        prometheus.scrape("stale", server.url.removeprefix("http://"))
                    redis.stop()
                    fires(prometheus, "PolicyServerFleetLapsed", "PolicyServerFleetMemberLost")
                found.metrics = server.http.get("/metrics").text
            server.stop()
            fires(prometheus, "PolicyServerDown")
            found.fired = prometheus.fired()
        else:
            swap(server, trainer)
            server.http.post("/action", json={"observation": [0]})
            os.kill(server.processes("app.worker")[0], signal.SIGKILL)
            until(lambda: len(server.processes("app.worker")) == 1)
            server.stop()
        found.lines = server.lines
        yield found


def _answer_all(prometheus: Prometheus, found: Seen) -> None:
    missing = queries()

    def all_answered() -> bool:
        for place, text in list(missing.items()):
            if any(sample["value"][1] != "NaN" for sample in prometheus.query(text)):
                del missing[place]
        return not missing

    until(all_answered, 30)
    found.answered = {place: place not in missing for place in queries()}


@pytest.mark.parametrize("place", queries())
def test_every_query_of_the_dashboard_returns_data(seen: Seen, place: str) -> None:
    program("prometheus")
    assert seen.answered[place], queries()[place]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_fires_when_it_is_provoked(seen: Seen, alert: str) -> None:
    program("prometheus")
    if "Fleet" in alert and not seen.has_redis:
        pytest.skip("no redis-server on this machine: there is no fleet")
    assert alert in seen.fired


def test_the_metrics_follow_the_conventions(seen: Seen) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=seen.metrics, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {m.full_name for m in METRICS} <= set(re.findall(r"^# HELP (\w+) ", seen.metrics, re.MULTILINE))


# The log of the same server.


def test_every_line_of_a_log_as_json_is_an_object(seen: Seen) -> None:
    objects = [json.loads(line) for line in seen.lines]
    for each in objects:
        assert {"time", "level", "logger", "message", "process"} <= each.keys()
        assert datetime.fromisoformat(each["time"]).utcoffset().total_seconds() == 0
        assert each["time"].endswith("Z")
        assert each["level"] in ("debug", "info", "warning", "error", "critical")
    assert {each["process"] for each in objects} >= {"control", "worker"}
    assert all((each["process"] == "worker") == ("worker" in each) for each in objects)


def test_lines_say_which_policy_and_which_version(seen: Seen) -> None:
    objects = [json.loads(line) for line in seen.lines]
    serving, refused = {"0000000001", "0000000003"}, {"0000000002"}  # the canary was promoted first
    for text, versions, level in ((" serves: loaded", serving, "info"), ("refused ", refused, "warning")):
        found = [each for each in objects if text in each["message"]]
        said = {(each["policy"], each["version"], each["level"]) for each in found}
        assert said == {("p", version, level) for version in versions}
    for said in ("POLICY_SERVER_TYPO is no setting", "Listening on http://", "Limits: ", "broken: NOT SERVED"):
        assert any(each["message"].startswith(said) for each in objects), said
