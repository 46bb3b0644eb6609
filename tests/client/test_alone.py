"""The package by itself: what it imports, what it is called, what it can do where nothing else is installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import policy_client
from tests.support.environments import packages_of
from tests.support.server import ROOT

PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]


def test_it_runs_where_only_its_own_packages_are_installed(tmp_path: Path) -> None:
    for requirement in PROJECT["dependencies"]:
        if ";" not in requirement:  # the others are for another Python
            packages_of(re.split("[<>=]", requirement)[0], tmp_path)
    (tmp_path / "policy_client").symlink_to(ROOT / "client" / "policy_client")
    code = (
        "import policy_client, sys; policy_client.RemotePolicy('http://localhost').close(); print(sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd="/",
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    roots = {name.partition(".")[0] for name in re.findall(r"'([\w.]+)'", done.stdout)}
    assert {"httpx", "msgspec", "numpy"} <= roots
    assert not roots & {"tensorflow", "tf_agents", "gymnasium", "app", "saver", "tests"}


def test_gymnasium_is_all_that_its_adapter_adds() -> None:
    code = "import policy_client.gymnasium, sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'gymnasium'" in done.stdout
    assert not re.search(r"'(tensorflow|tf_agents|app|saver)'", done.stdout)


def test_public_names_are_what_they_should_be() -> None:
    *names, last = policy_client.__all__
    assert last == "__version__"
    assert sorted(names) == names
    for name in names:
        assert getattr(policy_client, name).__doc__, name
    errors = {name for name in names if issubclass(type(getattr(policy_client, name)), type)}
    assert {"RemotePolicy", "AsyncRemotePolicy", "Session", "PolicyError", "Unavailable"} <= errors
