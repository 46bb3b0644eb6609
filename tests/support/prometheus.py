"""A real Prometheus for tests, where the machine has one, with the project's own files: deploy/observe."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.ports import port_below_outgoing
from tests.support.server import ROOT

OBSERVE = ROOT / "deploy" / "observe"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
_INTERVAL = "250ms"
_REASON = "no {} on this machine (Debian's package prometheus): dashboard and alerts are not evaluated"


def program(name: str) -> str:
    """Returns the path of `prometheus` or `promtool`; skips the test where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(_REASON.format(name))
    return found


class Prometheus:
    """Scrapes what `targets` names, and evaluates the alerts, four times a second."""

    def __init__(self, folder: Path) -> None:
        self._targets = folder / "targets.json"
        self.targets: dict[str, str] = {}
        url = f"127.0.0.1:{port_below_outgoing()}"
        self._http = httpx.Client(base_url=f"http://{url}", trust_env=False)
        self._words = [
            program("prometheus"), f"--config.file={_rendered(folder)}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url}", "--log.level=warn",
        ]  # fmt: skip

    def scrape(self, instance: str, url: str) -> None:
        """Scrapes a server from now on, under the name `instance`."""
        self.targets[instance] = url
        groups = [{"targets": [at], "labels": {"instance": name}} for name, at in self.targets.items()]
        written = self._targets.with_suffix(".new")
        written.write_text(json.dumps(groups))
        written.replace(self._targets)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the samples of an instant query; none while Prometheus starts."""
        try:
            response = self._http.post("/api/v1/query", data={"query": expression})
        except httpx.TransportError:
            return []
        found = response.json() if response.status_code != 503 else {"status": "success", "data": {"result": []}}
        assert found["status"] == "success", (expression, found)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def fired(self) -> set[str]:
        """Returns the names of all alerts that fire, or did."""
        found = self.query('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {sample["metric"]["alertname"] for sample in found}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Runs it within the block."""
        process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            self._http.close()


def _rendered(folder: Path) -> Path:
    """The files of deploy/observe with other times, and targets that a test names in place of Docker's addresses.

    An alert fires at once: its `for` is tested by promtool. The one about memory fires at any use of it.
    """
    config = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), _INTERVAL)
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"], job["relabel_configs"]
    job["file_sd_configs"] = [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = re.sub(r"^ +for: .*\n", "", (OBSERVE / "alerts.yml").read_text(), flags=re.MULTILINE)
    changed = rules.replace("policy_server_memory_limit_bytes > 0.9", "policy_server_memory_limit_bytes > 0")
    assert changed != rules
    (folder / "alerts.yml").write_text(changed)
    return folder / "prometheus.yml"


def until(condition: Any, timeout_s: float = 60) -> bool:
    """Returns whether it has come about in that time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
