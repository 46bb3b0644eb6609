"""What the Dockerfile leaves out of the installed packages: it exists, and no process of a server misses it."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import processes
from tests.support.server import ROOT, RunningServer, serving

SITE = Path(sysconfig.get_paths()["purelib"])
# Every instruction on one line, without comments.
INSTRUCTIONS = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
PACKAGES = re.findall(r"--no-emit-package (\S+)", INSTRUCTIONS)
(_removal,) = re.findall(r"^RUN cd \S+/site-packages +&& rm -r /opt/venv/.lock (.*)$", INSTRUCTIONS, re.MULTILINE)
PATHS = _removal.partition("&&")[0].split()
SUFFIXES = tuple(re.findall(r"-name '\*(\.\w+)'", _removal))
_FOLDERS = re.findall(r"-type d -name (\w+) ", _removal)

# Python runs a module of this name at its start, in each process. To the server, what is left out is missing.
HOOK = """
import json, os, sys

left_out = json.loads(os.environ["LEFT_OUT"])
site = left_out["site"] + os.sep


def is_left_out(path):
    inside = path[len(site):]
    return (
        any(inside == gone or inside.startswith(gone + os.sep) for gone in left_out["paths"])
        or inside.endswith(tuple(left_out["suffixes"]))
        or any(folder in inside.split(os.sep)[:-1] for folder in left_out["folders"])
    )


def hook(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] in left_out["packages"]:
        raise ModuleNotFoundError(arguments[0] + " is not in the image")
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.normpath(arguments[0])
        if path.startswith(site) and is_left_out(path):
            with open(left_out["missed"], "a") as file:
                file.write(path + "\\n")
            raise FileNotFoundError(path)


sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that gets a line for each file that a server wanted, and that the image has not."""
    return tmp_path_factory.mktemp("image") / "missed"


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports: of ours with state, of TF-Agents' own by a seed, and one with a newer checkpoint."""
    import tensorflow as tf
    from tf_agents.policies import policy_saver

    from tests.support import policies

    folder = tmp_path_factory.mktemp("policies")
    policies.export("recurrent", folder / "recurrent")
    step = tf.Variable(5, dtype=tf.int64)
    policy_saver.PolicySaver(policies.make("boltzmann"), seed=5, train_step=step).save(str(folder / "sampling"))
    policies.NumberTrainer(folder / "number", plain=True).publish(700, folder=folder / "next")
    return folder


@pytest.fixture(scope="module")
def server(policies: Path, missed: Path) -> Iterator[RunningServer]:
    """A server that lacks what the image lacks."""
    left_out = {
        "site": str(SITE),
        "packages": [name.replace("-", "_") for name in PACKAGES if name != "libclang"],
        "paths": PATHS,
        "suffixes": SUFFIXES,
        "folders": _FOLDERS,
        "missed": str(missed),
    }
    (missed.parent / "sitecustomize.py").write_text(HOOK)
    names = ("recurrent", "sampling", "number")
    environment = {"PYTHONPATH": str(missed.parent), "LEFT_OUT": json.dumps(left_out)}
    kept = ("--experience-dir", str(missed.parent / "experience"))
    with serving({name: policies / name for name in names}, *kept, **environment) as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_left_out_exists(path: str) -> None:
    assert (SITE / path).exists()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_left_out_is_in_the_lock(name: str) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert name not in {Requirement(line).name for line in project["dependencies"]}


def test_what_is_read_from_the_dockerfile() -> None:
    assert (set(SUFFIXES), _FOLDERS) == ({".pyi", ".h", ".hpp"}, ["tests"])
    assert {"tensorflow/include", "tensorflow_probability/substrates"} <= set(PATHS)
    assert {"libclang", "keras"} <= set(PACKAGES)


def has_all_it_wants(server: RunningServer, missed: Path) -> bool:
    """Whether no process of the server has asked for, or mapped, what the image has not."""
    maps = [processes.read(pid, "maps") for pid in (server.process.pid, *server.processes())]
    assert sum("libtensorflow_cc" in text for text in maps) == 2, "builder and worker"
    assert not [path for path in PATHS for text in maps if f"{SITE}/{path}" in text]
    assert not missed.exists(), missed.read_text()
    return True


def test_a_server_without_them_serves_on_both_engines(server: RunningServer, missed: Path) -> None:
    engines = {name: server.http.get(f"/v1/policies/{name}").json()["engine"] for name in ("recurrent", "sampling")}
    assert engines == {"recurrent": "litert", "sampling": "tensorflow"}
    for name in engines:
        for call in ("action", "distribution"):
            answer = server.http.post(f"/v1/policies/{name}/{call}", json={"observation": [0.1, 0, 0, 0]})
            assert answer.status_code == 200, answer.text
    assert has_all_it_wants(server, missed)


def test_a_server_without_them_swaps(server: RunningServer, policies: Path, missed: Path) -> None:
    (policies / "number" / "checkpoints").mkdir()
    (policies / "next" / "0000000700").rename(policies / "number" / "checkpoints" / "0000000700")
    assert server.reload("number").status_code == 200
    answer = server.http.post("/v1/policies/number/action", json={"observation": [1, 0, 0, 0]}).json()
    assert answer["action"] == [700_001, 700_001]
    assert has_all_it_wants(server, missed)


def test_what_is_left_out_is_missing_to_the_server(server: RunningServer, tmp_path: Path) -> None:
    environ = dict(
        entry.split("=", 1)
        for entry in Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")
        if entry.startswith(("PYTHONPATH=", "LEFT_OUT="))
    )
    left_out = json.loads(environ["LEFT_OUT"]) | {"missed": str(tmp_path / "missed")}
    program = "import tensorflow_probability.substrates"
    tried = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environ | {"LEFT_OUT": json.dumps(left_out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 1
    assert "substrates" in (tmp_path / "missed").read_text()
