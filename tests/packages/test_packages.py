"""The packages as they are built: what they contain, and that they work where only they are installed."""

import email.parser
import json
import re
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest

import policy_client
import saver
from tests.packages.building import Built, Environment, Environments, uv
from tests.support.server import ADMIN_TOKEN, ROOT, RunningServer, serving

MODULES = {"client": ROOT / "client" / "policy_client", "saver": ROOT / "saver"}
NAMES = {"client": "policy-client", "saver": "policy-saver"}
VERSION = "0.2.0"
EPISODE = Path(__file__).with_name("episode.py")


def sources(folder: str) -> set[str]:
    """The modules of a package, as they lie in the project, with the name that they are imported by in front."""
    home = MODULES[folder]
    return {f"{home.name}/{path.relative_to(home)}" for path in home.rglob("*.py")} | {f"{home.name}/py.typed"}


def readme(folder: str, language: str) -> str:
    page = (ROOT / folder / "README.md").read_text()
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("folder", NAMES)
def test_a_wheel_contains_every_module_its_licence_and_nothing_else(packages: dict[str, Built], folder: str) -> None:
    with zipfile.ZipFile(packages[folder].wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        fields = email.parser.Parser().parsestr(archive.read(metadata).decode())
        (scripts,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert f"{NAMES[folder]} = " in archive.read(scripts).decode()
    assert names == sources(folder)
    assert (fields["Name"], fields["Version"], fields["License-Expression"]) == (NAMES[folder], VERSION, "Apache-2.0")
    assert fields.get_payload().strip() == (ROOT / folder / "README.md").read_text().strip()
    assert ">=3.9" in fields["Requires-Python"].split(",")


@pytest.mark.parametrize("folder", NAMES)
def test_an_sdist_contains_the_same(packages: dict[str, Built], folder: str) -> None:
    with tarfile.open(packages[folder].sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    inside = {name if folder == "client" else name.partition("/")[2] for name in sources(folder)}
    assert names - {".gitignore"} == inside | {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}


def test_twine_accepts_what_is_built(packages: dict[str, Built]) -> None:
    files = [path for built in packages.values() for path in (built.wheel, built.sdist)]
    said = uv("tool", "run", "--quiet", "--isolated", "twine", "check", "--strict", *files)
    assert said.count("PASSED") == len(files) == 4


def test_licences_are_the_projects() -> None:
    for folder in NAMES:
        assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_versions_have_one_place() -> None:
    assert policy_client.__version__ == saver.__version__ == VERSION
    for folder in NAMES:
        project = (ROOT / folder / "pyproject.toml").read_text()
        assert 'dynamic = ["version"]' in project
        assert VERSION not in project


# policy-client


@pytest.fixture(scope="module")
def simulator(environments: Environments) -> Environment:
    """An environment that has the client alone."""
    return environments.having("client")


def test_the_client_plays_in_an_environment_of_its_own(simulator: Environment, server: RunningServer) -> None:
    seen = json.loads(simulator.printed("python", EPISODE, server.url))
    assert seen.pop("file").startswith(str(simulator.home))
    check_episode(seen, server)


def check_episode(seen: dict[str, object], server: RunningServer) -> None:
    """What the program saw is what the server answers to JSON, without the client."""
    assert seen["version"] == VERSION
    rows = [[-1 + 2 * (4 * row + column) / 19 for column in range(4)] for row in range(5)]
    body = {"observation": rows, "options": {"mode": "greedy"}}
    assert seen["batch"] == server.http.post("/v1/policies/cartpole/action", json=body).json()["action"]
    state: dict[str, object] = {}
    actions = []
    for row in rows:
        body = {"observation": row, "options": {"mode": "greedy"}, **state}
        answer = server.http.post("/v1/policies/recurrent/action", json=body).json()
        actions.append(answer["action"])
        state = {"policy_state": answer["policy_state"]}
    assert seen["episode"] == seen["coroutines"] == actions
    assert seen["nested"] == [422, ["expected", "problem", "where"]]
    assert seen["refusals"] == ["NotFound", "Unavailable"]
    assert seen["late"] == [2.5, 0, 0, 0, 0]


def test_the_clients_readme_does_what_it_says(simulator: Environment, exports: Path, tmp_path: Path) -> None:
    with serving({"cartpole": exports / "cartpole"}, "--experience-dir", str(tmp_path), prepared=True) as server:
        program = readme("client", "python").replace("http://localhost:8000", server.url)
        answer, *actions, rows = simulator.printed("python", "-c", program).splitlines()
        assert re.fullmatch(r"[01] export \d+", answer)
        assert len(actions) > 1
        assert rows.startswith("(64, 4) 0.0 "), "the step of the session before it"
        page = (ROOT / "client" / "README.md").read_text().replace("http://localhost:8000", server.url)
        describe, action, export = re.findall(r"^policy-client .*", page, re.MULTILINE)
        assert json.loads(simulator.printed(*shlex.split(describe)))["name"] == "cartpole"
        assert sorted(json.loads(simulator.printed(*shlex.split(action)))) == ["action", "train_step", "version"]
        done = simulator.run(*shlex.split(export))
        assert (done.returncode, done.stdout) == (1, ""), "pyarrow is in an extra"
        assert done.stderr == "policy-client: No module named 'pyarrow'; install policy-client[experience]\n"


def test_the_clients_command_says_its_version_and_what_is_wrong_in_one_line(
    simulator: Environment, server: RunningServer
) -> None:
    assert simulator.printed("policy-client", "--version") == f"policy-client {VERSION}\n"
    assert simulator.printed("python", "-m", "policy_client", "--version") == f"policy-client {VERSION}\n"
    for arguments, status, says in [
        (("describe", server.url, "--policy", "nobody"), 1, "404"),
        (("action", server.url, "[1, 2]", "--policy", "cartpole"), 1, "422"),
        (("describe", "http://127.0.0.1:9"), 1, "no answer"),
        (("describe", "nowhere"), 1, "is no address of a server"),
    ]:
        done = simulator.run("policy-client", *arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith("policy-client: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    done = simulator.run("policy-client", "action", server.url, "[1,")
    assert done.returncode == 2
    assert "is not JSON" in done.stderr


# policy-saver


@pytest.fixture(scope="module")
def bare(environments: Environments) -> Environment:
    """An environment that has the saver, and no TensorFlow."""
    return environments.having("saver")


@pytest.fixture(scope="module")
def trainer(environments: Environments) -> Environment:
    """An environment that has the saver, and sees TensorFlow 2.21, TF-Agents and tf-keras of this one."""
    made = environments.empty(name="trainer")
    (site,) = made.home.glob("lib/*/site-packages")
    (here,) = (ROOT / ".venv").glob("lib/*/site-packages")
    (site / "trainer.pth").write_text(f"{here}\n")
    made.install("--no-deps", environments.wheel("saver"))
    return made


def test_the_saver_asks_for_numpy_alone(bare: Environment) -> None:
    assert sorted(bare.packages()) == ["numpy", "policy-saver"]
    home = bare.printed("python", "-c", "import saver; print(saver.__file__, saver.__version__)").split()
    assert home[0].startswith(str(bare.home))
    assert home[1] == VERSION
    assert bare.printed("policy-saver", "--version") == f"policy-saver {VERSION}\n"
    assert bare.printed("python", "-m", "saver", "--version") == f"policy-saver {VERSION}\n"


@pytest.mark.parametrize("statement", ["from saver import PolicySaver", "import saver.policy_saver"])
def test_without_tensorflow_the_saver_says_in_one_line_what_to_install(bare: Environment, statement: str) -> None:
    done = bare.run("python", "-c", statement)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: saver needs tensorflow and tf_agents, not installed here: "
        "pip install 'policy-saver[tf-agents]', or tensorflow and tf-agents as your trainer has them"
    )


def test_verify_without_tensorflow_says_in_one_line_what_to_install(bare: Environment, elsewhere: Path) -> None:
    done = bare.run("policy-saver", "verify", elsewhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("saver: saver needs tensorflow, not installed here: pip install ")
    assert done.stderr.count("\n") == 1


def test_the_savers_readme_does_what_it_says(trainer: Environment, bare: Environment, elsewhere: Path) -> None:
    """Exports, verifies and pushes, the last from an environment without TensorFlow; the server then serves it."""
    trainer.printed("python", "-c", readme("saver", "python"), cwd=elsewhere)
    text = (ROOT / "saver" / "README.md").read_text()
    verify, push = (shlex.split(command) for command in re.findall(r"^policy-saver .*", text, re.MULTILINE))
    assert "all well: " in trainer.printed(*verify, cwd=elsewhere)
    served = elsewhere / "served"
    (elsewhere / "policies" / "cartpole").rename(served)
    checkpoint = served / "checkpoints" / "0000000700"
    (elsewhere / "policies" / "cartpole" / "checkpoints").mkdir(parents=True)
    checkpoint.rename(elsewhere / "policies" / "cartpole" / "checkpoints" / "0000000700")
    with serving({"cartpole": served}) as server:
        command = [word.replace("http://localhost:8000", server.url) for word in push]
        said = bare.printed(*command, cwd=elsewhere, POLICY_SERVER_ADMIN_TOKEN=ADMIN_TOKEN)
        assert "0000000700 (train step 700) serves; before it export" in said


def test_tensorflow_before_an_installed_saver_is_refused_in_one_line(trainer: Environment) -> None:
    done = trainer.run("python", "-c", "import tensorflow; import saver.policy_saver")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: TensorFlow was imported with Keras 3, and TF-Agents needs Keras 2: "
        "import saver before TensorFlow, or set TF_USE_LEGACY_KERAS=1 before both"
    )


def test_tf_keras_missing_beside_an_installed_saver_is_refused(trainer: Environment, elsewhere: Path) -> None:
    (elsewhere / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'tf_keras' else find(name, *more)\n"
    )
    done = trainer.run("python", "-c", "from saver import PolicySaver", PYTHONPATH=str(elsewhere))
    assert done.stderr.splitlines()[-1] == (
        "ImportError: this TensorFlow comes with Keras 3, and TF-Agents needs Keras 2: "
        "pip install tf_keras, of the version that TensorFlow has"
    )


def test_an_editable_install_is_the_project(environments: Environments) -> None:
    made = environments.empty(name="editable")
    made.install("--no-deps", "--editable", ROOT / "saver", "--editable", ROOT / "client")
    for name, home in (("saver", ROOT), ("policy_client", ROOT / "client")):
        found = f"import importlib.util as util; print(util.find_spec({name!r}).origin)"
        assert made.printed("python", "-c", found) == f"{home / name / '__init__.py'}\n"
