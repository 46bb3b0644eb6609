"""The package by itself: what it imports, what it is called, what it can do where nothing else is installed."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import client
from tests.support.environments import packages_of
from tests.support.server import ROOT

PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]


def test_it_runs_where_only_its_own_packages_are_installed(tmp_path: Path) -> None:
    for requirement in PROJECT["dependencies"]:
        packages_of(re.split("[<>=]", requirement)[0], tmp_path)
    (tmp_path / "client").symlink_to(ROOT / "client")
    code = "import client, sys; client.RemotePolicy('http://localhost').close(); print(sorted(sys.modules))"
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
    code = "import client.gymnasium, sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'gymnasium'" in done.stdout
    assert not re.search(r"'(tensorflow|tf_agents|app|saver)'", done.stdout)


def test_public_names_are_what_they_should_be() -> None:
    assert sorted(client.__all__) == client.__all__
    for name in client.__all__:
        assert getattr(client, name).__doc__, name
    errors = {name for name in client.__all__ if issubclass(type(getattr(client, name)), type)}
    assert {"RemotePolicy", "AsyncRemotePolicy", "Session", "PolicyError", "Unavailable"} <= errors


def test_a_wheel_has_every_module_and_its_types(tmp_path: Path) -> None:
    source = tmp_path / "client"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("policy_server_client-*.whl")
    import zipfile

    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("client/")}
    assert packed == {f"client/{path.name}" for path in (ROOT / "client").iterdir() if path.suffix in (".py", ".typed")}
