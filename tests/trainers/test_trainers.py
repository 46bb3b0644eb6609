"""A trainer with TensorFlow 2.15, in Python 3.9 to 3.11, and a server with ours: `make test-trainers`.

The trainer has the saver as the package policy-saver, installed, and sees nothing of the project's folder.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import saver
from tests.support.server import ADMIN_TOKEN, ROOT, RunningServer, serving
from tests.trainers.environments import FROZEN, PYTHONS, frozen

NAMES = ("q", "arm", "recurrent", "fixed", "sensors", "described")


@dataclass
class Trained:
    home: Path
    folder: Path
    answers: dict[str, dict[str, list]]
    server: RunningServer

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return ran(self.home, *command, **env)


def ran(home: Path, program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment with hardly a variable, from a folder that is not the project's."""
    bare = {"PATH": "/usr/bin:/bin", "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(home / "bin" / program), *arguments]
    return subprocess.run(command, cwd="/", env=bare | env, capture_output=True, text=True, timeout=600)


def programs(folder: Path) -> Path:
    """A copy of what the trainer's program is made of: beside the original it would import the project's own saver."""
    for name in ("support/saver_policies.py", "trainers/program.py"):
        (folder / "tests" / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    return folder


@pytest.fixture(scope="module", params=PYTHONS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    home = request.config.getoption("--trainers")
    if home is None:
        pytest.skip("only with --trainers FOLDER, see the Makefile")
    environment = Path(home).absolute() / request.param
    if not (environment / "bin" / "policy-saver").exists():
        pytest.skip(f"no Python {request.param} was there when the environments were made")
    folder = tmp_path_factory.mktemp(f"trained-{request.param}")
    code = programs(tmp_path_factory.mktemp("programs"))
    done = ran(environment, "python", str(code / "tests/trainers/program.py"), str(folder), PYTHONPATH=str(code))
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((folder / "answers.json").read_text())
    # Without watching: a pushed checkpoint is served because it was pushed, and what served before is certain.
    with serving({name: folder / name for name in NAMES}, "--no-watch") as server:
        yield Trained(environment, folder, answers, server)


def test_the_environment_has_what_a_trainer_has(trained: Trained) -> None:
    absent = "import tensorflow; import importlib.util as u\n"
    absent += "print(tensorflow.__version__, [n for n in ('rich', 'httpx', 'tf_keras') if u.find_spec(n)])"
    assert trained.run("python", "-c", absent).stdout.strip() == "2.15.1 []"


def test_the_saver_is_installed_and_has_changed_nothing_else(trained: Trained) -> None:
    where = trained.run("python", "-c", "import saver; print(saver.__file__, saver.__version__)").stdout.split()
    assert where[0].startswith(str(trained.home))
    assert where[1] == saver.__version__
    others = [line for line in frozen(trained.home).splitlines() if not line.startswith("policy-saver")]
    assert others == (trained.home / FROZEN).read_text().splitlines()
    assert trained.run("python", "-m", "pip", "check").stdout == "No broken requirements found.\n"


def test_the_client_would_change_nothing_there(trained: Trained) -> None:
    """pip says what it would install."""
    there = {_name(line) for line in (trained.home / FROZEN).read_text().splitlines()}
    report = ("--dry-run", "--quiet", "--report", "-")
    done = trained.run("python", "-m", "pip", "install", *report, str(ROOT / "client"), HOME=str(trained.folder))
    assert done.returncode == 0, done.stderr
    new = {_name(package["metadata"]["name"]) for package in json.loads(done.stdout)["install"]}
    assert {"policy-client", "httpx", "msgspec"} <= new
    assert not new & there


def _name(line: str) -> str:
    return line.partition("==")[0].strip().lower().replace("_", "-")


@pytest.mark.parametrize("name", NAMES)
def test_verify_finds_the_export_well(trained: Trained, name: str) -> None:
    done = trained.run("policy-saver", "verify", str(trained.folder / name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all well" in done.stdout
    assert "skipped" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_pushed_weights_answer_as_the_live_policy_does(trained: Trained, name: str) -> None:
    pushed = ("push", str(trained.folder / f"{name}-next"), f"{trained.server.url}/v1/policies/{name}")
    done = trained.run("policy-saver", *pushed, "--activate", POLICY_SERVER_ADMIN_TOKEN=ADMIN_TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"{name}: {name}-next (train step 2) serves; before it export" in done.stdout
    rows = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    body: dict[str, object] = {"observation": rows.tolist()}
    if name == "sensors":
        body = {"position": rows[:, :2].tolist(), "speed": rows[:, 2:].tolist()}
    path = f"/v1/policies/{name}"
    greedy = trained.server.http.post(f"{path}/action", json=body | {"options": {"mode": "greedy"}}).json()
    np.testing.assert_allclose(greedy["action"], trained.answers[name]["action"], rtol=1e-5, atol=1e-6)
    assert greedy["train_step"] == 2
    parameters = trained.server.http.post(f"{path}/distribution", json=body).json()["distribution"]["parameters"]
    numbers = parameters["logits"] if "logits" in parameters else parameters["loc"]
    np.testing.assert_allclose(numbers, trained.answers[name]["numbers"], rtol=1e-5, atol=1e-6)


def test_a_server_that_refuses_is_reported_in_one_line(trained: Trained) -> None:
    pushed = ("-m", "saver", "push", str(trained.folder / "q-next"), trained.server.url)
    done = trained.run("python", *pushed, POLICY_SERVER_ADMIN_TOKEN="wrong")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("saver: refused (401)")
    assert done.stderr.count("\n") == 1


def test_keras_2_asked_for_where_it_is_not_installed_is_reported(trained: Trained) -> None:
    done = trained.run("python", "-c", "from saver import PolicySaver", TF_USE_LEGACY_KERAS="1")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: TF_USE_LEGACY_KERAS is set, and tf_keras is not installed: "
        "leave it unset, this TensorFlow has Keras 2 of its own"
    )
