"""policy-server as a package: built from a copy of its files, installed where nothing else is, and used from elsewhere.

Its dependencies are those of this environment, by links: what its own requirements name, so that
TF-Agents is not among them. With --full, pip, uv and pipx install it as a user does, which needs an index of packages.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.version import Version
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from app import __version__
from tests.support.environments import packages_of
from tests.support.ports import port_below_outgoing
from tests.support.saver_policies import Saved
from tests.support.server import ROOT
from tests.zoo.kind import FLOATS
from tests.zoo.kinds import KINDS, make

BUILD = "from setuptools import build_meta; print(build_meta.build_sdist({0!r}), build_meta.build_wheel({0!r}))"
BODY = {"observation": [0.1, -0.2, 0.3, 0.0]}


class Own(tfp.distributions.Normal):
    """A distribution of the program that saves the policy: no server has its class."""


class Coming(tfp.distributions.Normal):
    """One that some TF-Agents may have."""

    __module__ = "tf_agents.distributions.coming"


class NormalPolicy(tf_policy.TFPolicy):
    def __init__(self, kind: type) -> None:
        self._kind = kind
        super().__init__(ts.time_step_spec(FLOATS), tf.TensorSpec([], tf.float32, "action"))

    def _distribution(self, time_step: Any, policy_state: Any) -> Any:
        mean = time_step.observation[:, 0]
        return policy_step.PolicyStep(self._kind(mean, tf.ones_like(mean)), policy_state)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has, without what was built in it."""
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("app", "saver", "client", "tests", "demo"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(str(folder))], cwd=source, capture_output=True, text=True, check=True
    )
    sdist, wheel = done.stdout.split()[-2:]
    return folder / sdist, folder / wheel


@pytest.fixture(scope="module")
def exports(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of ours, plain ones, and two that hold a class that is not here."""
    folder = tmp_path_factory.mktemp("exports")
    policies = {
        "plain": make(KINDS["q"], seed=3),
        "squashed": make(KINDS["sac"], seed=3),
        "shifted": make(KINDS["action-shifted"], seed=3),
        "own": NormalPolicy(Own),
        "coming": NormalPolicy(Coming),
    }
    for name, policy in policies.items():
        policy_saver.PolicySaver(policy).save(str(folder / name))
    return {"ours": saved.folder("q")} | {name: folder / name for name in policies}


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script in an environment with the package and what it requires."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    site = home / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--disable-pip-version-check", built[1]], check=True)
    for requirement in requirements(built[1]):
        packages_of(requirement.name, site)
    return home / "bin" / "policy-server"


def metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as packed:
        return packed.read(f"policy_server-{__version__}.dist-info/METADATA")


def requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in message_from_bytes(metadata(wheel)).get_all("Requires-Dist", [])]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory as a user may have it: with an `app` and a `saver` of his own."""
    (tmp_path / "app.py").write_text("raise SystemExit('the wrong app')")
    (tmp_path / "saver").mkdir()
    (tmp_path / "saver" / "__init__.py").write_text("raise SystemExit('the wrong saver')")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "no_proxy": "127.0.0.1"}


def ran(script: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([script, *arguments], cwd=cwd, env=environment(cwd), capture_output=True, text=True)


@contextlib.contextmanager
def serving(script: Path, policies: dict[str, Path], cwd: Path) -> Iterator[tuple[httpx.Client, str]]:
    """The server that the script starts, and what it said until it listened; it has to end well."""
    port = port_below_outgoing()
    command = [script, "serve", *(f"{name}={folder}" for name, folder in policies.items()), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=cwd, env=environment(cwd), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("Limits:"):
                    break
            assert process.poll() is None, "".join(said)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as http:
                yield http, "".join(said)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
    assert process.returncode == 0


def test_the_wheel_holds_the_server_and_nothing_else(built: tuple[Path, Path]) -> None:
    files = [path for package in ("app", "saver") for path in (ROOT / package).rglob("*") if path.is_file()]
    own = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "build" not in path.parts and (path.suffix in (".py", ".typed") or "static" in path.parts)
    }
    with zipfile.ZipFile(built[1]) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
        licences = [name for name in packed.namelist() if name.endswith("licenses/LICENSE")]
    assert names - {"saver/py.typed"} == own - {"saver/py.typed"}
    assert "app/py.typed" in names
    assert len(licences) == 1
    with tarfile.open(built[0]) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert own - {"saver/py.typed"} <= inside
    assert {"pyproject.toml", "README.md", "LICENSE"} <= inside


def test_its_metadata_is_what_an_index_takes(built: tuple[Path, Path]) -> None:
    found = Metadata.from_email(metadata(built[1]))  # as strict as PyPI
    assert (found.name, found.version) == ("policy-server", Version(__version__))
    assert found.license_expression == "Apache-2.0"
    assert found.description_content_type == "text/markdown"
    assert found.description == (ROOT / "README.md").read_text()
    assert found.requires_python is not None
    assert "3.11.4" in found.requires_python
    assert found.provides_extra == [
        "grpc",
        "opentelemetry",
        "experience",
    ]  # what only a checkout needs is none of a user's business


def test_what_it_requires_is_what_the_tests_run_with(built: tuple[Path, Path]) -> None:
    from importlib.metadata import version

    needed = {requirement.name: requirement.specifier for requirement in requirements(built[1])}
    assert "tf-agents" not in needed  # no resolver can join its pins with the others
    for name, specifier in needed.items():
        assert version(name) in specifier, name


def test_the_script_says_its_version_and_how_it_is_called(installed: Path, elsewhere: Path) -> None:
    done = ran(installed, "--version", cwd=elsewhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"policy-server {__version__}\n", "")
    for arguments, usage in (
        (("serve", "x", "--prot", "1"), "usage: policy-server serve"),
        (("inspect",), "usage: policy-server inspect"),
        (("sever",), "usage: policy-server [-h]"),
        ((), "usage: policy-server [-h]"),
    ):
        done = ran(installed, *arguments, cwd=elsewhere)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(usage)


def test_it_inspects_a_plain_export_without_tf_agents(
    installed: Path, elsewhere: Path, exports: dict[str, Path]
) -> None:
    imported = ran(installed.parent / "python", "-P", "-c", "import tf_agents", cwd=elsewhere)
    assert "ModuleNotFoundError: No module named 'tf_agents'" in imported.stderr
    done = ran(installed, "inspect", str(exports["squashed"]), cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "squashed_normal" in done.stdout


def test_it_serves_exports_of_both_savers_without_tf_agents(
    installed: Path, elsewhere: Path, exports: dict[str, Path]
) -> None:
    with serving(installed, exports, elsewhere) as (http, said):
        check_answers(http)
        check_refusals(http, said, f"{installed.parent / 'python'}")


def check_answers(http: httpx.Client) -> None:
    for name, family in (
        ("ours", "categorical"),
        ("plain", "categorical"),
        ("squashed", "squashed_normal"),
        ("shifted", "shifted_categorical"),
    ):
        action = http.post(f"/v1/policies/{name}/action", json=BODY)
        assert action.status_code == 200, action.text
        distribution = http.post(f"/v1/policies/{name}/distribution", json=BODY).json()["distribution"]
        assert distribution["family"] == family
    document = http.get("/openapi.json").json()
    assert document["info"]["version"] == __version__
    assert f'policy_server_build_info{{version="{__version__}"}} 1.0\n' in http.get("/metrics").text
    assert http.get("/docs").status_code == 200


def check_refusals(http: httpx.Client, said: str, python: str) -> None:
    """The two whose class is missing are shown as failed, in one line each; one of them can be helped."""
    rows = {row["name"]: row for row in http.get("/v1/policies").json()["policies"]}
    assert {name for name, row in rows.items() if not row["ready"]} == {"own", "coming"}
    assert "tests.packages.test_server.Own, a class of the program that saved it" in rows["own"]["reason"]
    assert "tf_agents.distributions.coming.Coming, which only TF-Agents has" in rows["coming"]["reason"]
    assert "--no-deps tf-agents==0.19.0 gin-config pillow" in rows["coming"]["reason"]
    assert f"--python {python} " in rows["coming"]["reason"]  # it has no pip of its own
    assert [line for line in said.splitlines() if line.startswith(("  own:", "  coming:"))] == [
        f"  {name}: NOT SERVED: {rows[name]['reason']}" for name in ("own", "coming")
    ]


# What a user types, with an index of packages.


def _pip(home: Path, wheel: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", wheel], check=True)
    return home / "bin" / "policy-server"


def _uv(home: Path, wheel: Path) -> Path:
    uv = Path(sys.executable).with_name("uv")
    env = os.environ | {"UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin")}
    subprocess.run([uv, "tool", "install", "--python", sys.executable, wheel], env=env, check=True)
    return home / "bin" / "policy-server"


def _pipx(home: Path, wheel: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", home / "pipx"], check=True)
    subprocess.run([home / "pipx" / "bin" / "python", "-m", "pip", "install", "--quiet", "pipx"], check=True)
    env = os.environ | {"PIPX_HOME": str(home / "tools"), "PIPX_BIN_DIR": str(home / "bin")}
    subprocess.run([home / "pipx" / "bin" / "pipx", "install", wheel], env=env, check=True)
    return home / "bin" / "policy-server"


@pytest.mark.parametrize("install", [_pip, _uv, _pipx])
def test_a_user_installs_and_uses_it(
    install: Any, built: tuple[Path, Path], exports: dict[str, Path], elsewhere: Path, full: bool
) -> None:
    if not full:
        pytest.skip("--full: it needs an index of packages, and some minutes")
    script = install(elsewhere / "home", built[1])
    with serving(script, exports, elsewhere) as (http, _):
        check_answers(http)


def test_twine_accepts_both(built: tuple[Path, Path], tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("--full: twine comes from an index of packages")
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    subprocess.run([tmp_path / "bin" / "python", "-m", "pip", "install", "--quiet", "twine"], check=True)
    subprocess.run([tmp_path / "bin" / "twine", "check", "--strict", *built], check=True)
