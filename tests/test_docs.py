"""What README and docs say is true: its commands run, its examples answer as shown, its files exist."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.settings import all_settings, variable
from tests.support.clients import NoClients, python_of_clients
from tests.support.compilers import cpp, csharp, found, rust
from tests.support.server import ADMIN_TOKEN, ROOT, RunningServer, environment, serving
from tests.support.variables import known_variables

README = (ROOT / "README.md").read_text()
FIRST_POLICY = (ROOT / "docs" / "tutorials" / "first-policy.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server over what the README's own training program exports, and a recurrent and a continuous one."""
    import tensorflow as tf

    from tests.support import policies

    folder = tmp_path_factory.mktemp("readme")
    agent = SimpleNamespace(policy=policies.make("cartpole"), train_step_counter=tf.Variable(0, dtype=tf.int64))
    (program,) = blocks("python")
    exporting, checkpoint, rest = program.partition("saver.save_checkpoint")
    names: dict[str, Any] = {"agent": agent}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(exporting, "README.md", "exec"), names)
        agent.train_step_counter.assign(700)
        exec(compile(checkpoint + rest, "README.md", "exec"), names)
    served = {"cartpole": folder / "policies" / "cartpole", "memory": folder / "memory", "arm": folder / "arm"}
    policies.export("recurrent", served["memory"])
    policies.export("continuous", served["arm"])
    with serving(served) as running:
        yield running


def examples(page: str = README) -> list[tuple[str, str]]:
    """(command, the answer shown) of every console block."""
    found = []
    for block in blocks("console", page):
        lines = block.splitlines()
        found += list(zip(lines[::2], lines[1::2], strict=True))
    return found


@pytest.mark.parametrize(("shown", "answer"), dict.fromkeys(examples() + examples(FIRST_POLICY)))
def test_examples_of_readme_and_first_policy_answer_as_shown(server: RunningServer, shown: str, answer: str) -> None:
    """Whatever others have served meanwhile: each finds the newest weights, or what the example before it has left."""
    before = {"/rollback": ("0000000700", "export"), "/versions": ("0000000700", "export")}
    (served,) = [versions for route, versions in before.items() if route in shown] or [("0000000700",)]
    for version in served:
        server.reload("cartpole", checkpoint=version).raise_for_status()
    assert _form(answered(server, shown)) == _form(json.loads(answer))


def answered(server: RunningServer, shown: str) -> Any:
    """What a command of the docs gets."""
    command = shown.removeprefix("$ ").replace("localhost:8000", server.url.removeprefix("http://"))
    if "policy_state" in command:
        ones = json.dumps([[0.1] * 8, [0.2] * 8])
        command = re.sub(r'("policy_state": ).*\}', rf"\1{ones}}}", command)
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        env={"POLICY_SERVER_ADMIN_TOKEN": ADMIN_TOKEN, "PATH": "/usr/bin:/bin"},
    )
    return json.loads(done.stdout)


PAGES = ("how-to/export", "how-to/training-loop", "reference/distributions", "how-to/custom-inputs")


@pytest.mark.parametrize("page", PAGES)
def test_programs_of_the_docs_import_saver_before_tensorflow(page: str) -> None:
    program = blocks("python", (ROOT / "docs" / f"{page}.md").read_text())[0]
    assert program.startswith("from saver import PolicySaver ")
    assert "TF_USE_LEGACY_KERAS" not in program


def test_programs_of_the_docs_run_in_a_bare_environment(tmp_path: Path) -> None:
    programs = [blocks("python", (ROOT / "docs" / f"{page}.md").read_text()) for page in PAGES]
    runs = [
        f"exec(compile({chr(10).join(parts)!r}, {page!r}, 'exec'), {{}})"
        for page, parts in zip(PAGES, programs, strict=True)
    ]
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(runs)], cwd=tmp_path, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "policies").glob("*/policy.json"))) >= 3


def test_a_program_like_the_readmes_trains_and_saves_in_a_bare_environment(tmp_path: Path) -> None:
    """A DQN with our own environment's libraries: made, trained (which writes summaries), and saved."""
    (saving,) = blocks("python")
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", saving.partition("\n")[0] + DQN + saving.partition("\n")[2]]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "policies/cartpole/checkpoints/0000000700/checkpoint.json").exists()


DQN = """
import tensorflow as tf
from tf_agents.agents.dqn import dqn_agent
from tf_agents.networks import q_network
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

observation = tf.TensorSpec([4], tf.float32)
action = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 1)
network = q_network.QNetwork(observation, action, fc_layer_params=(8,))
step = tf.Variable(0, dtype=tf.int64)
time_steps = ts.time_step_spec(observation)
agent = dqn_agent.DqnAgent(time_steps, action, network, tf.keras.optimizers.Adam(), train_step_counter=step)
agent.train(tf.nest.map_structure(lambda spec: tf.zeros([2, 2, *spec.shape], spec.dtype), agent.collect_data_spec))
assert int(step) == 1
"""


def _form(answer: object) -> object:
    """Keys, types and texts of an answer, without its numbers and lengths."""
    if isinstance(answer, dict):
        if "versions" in answer:
            compared = ("version", "state", "train_step")
            return [
                sorted(answer["versions"][0]),
                sorted(tuple(v[name] for name in compared) for v in answer["versions"]),
            ]
        fixed = ("family", "version", "previous", "type", "detail", "errors", "status")
        changed = {"train_step"} if "previous" in answer else set()
        return {key: value if key in {*fixed, *changed} else _form(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_form(answer[0])] if answer else []
    return "a number" if isinstance(answer, int | float) else type(answer).__name__


def test_readme_and_first_policy_show_the_same_answers_to_the_same_commands() -> None:
    shown = dict(examples(FIRST_POLICY))
    assert len(shown) >= 12
    for command, answer in examples():
        assert shown[command] == answer, command


def test_make_alone_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in (
        "demo",
        "serve",
        "test",
        "test-fast",
        "coverage",
        "test-full",
        "check",
        "fmt",
        "lock",
        "setup",
        "site",
    ):
        assert f"make {target} " in listed


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    rows = re.findall(r"^\| `(POLICY_SERVER_\w+)` \| `([^`]*)` \|", page, re.MULTILINE)
    shown = {variable(f.name): "" if f.default == "" else str(f.default).lower() for f in all_settings()}
    assert dict(rows) == shown


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml", "deploy/example.env", "deploy/entrypoint.sh"])
def test_what_operators_set_are_settings(file: str) -> None:
    named = set(re.findall(r"POLICY_SERVER_[A-Z_]+", (ROOT / file).read_text()))
    assert named <= known_variables()


def test_every_status_is_documented() -> None:
    from app.api.problems import STATUS

    page = (ROOT / "docs" / "reference" / "http.md").read_text().split("## Statuses")[1]
    for status, _ in STATUS.values():
        assert status == 500 or str(status) in page


def test_every_metric_is_documented(tmp_path: Path) -> None:
    from app.metrics import Metrics

    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    for family in Metrics().registry.collect():
        assert family.name in page


# docs/reference/binary.md

BINARY = (ROOT / "docs" / "reference" / "binary.md").read_text()
REQUEST, ANSWER = (
    bytes.fromhex("".join(line.partition("   ")[0] for line in block.splitlines())) for block in blocks("hex", BINARY)
)


def test_bytes_of_the_docs_are_what_the_server_reads_and_writes() -> None:
    import numpy as np

    from app.wire.msgpack_body import decode, encode

    observation = decode(REQUEST)["observation"]
    assert (observation.dtype, observation.tolist()) == (np.float32, [0.5, -0.25, 2.0, 0.0])
    action = np.array([0.5, -1.25], np.float32)
    assert encode({"action": action, "version": "0000000700", "train_step": 700}) == ANSWER


def test_dtypes_of_the_docs_are_those_of_the_server() -> None:
    from app.wire.msgpack_body import DTYPES

    (row,) = re.findall(r"^\| `dtype` \| (.*) \|$", BINARY, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(DTYPES)


@pytest.mark.parametrize(("language", "built"), [("cpp", cpp), ("rust", rust), ("csharp", csharp)])
def test_writers_of_the_docs_write_the_bytes_that_the_docs_show(
    language: str, built: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    (program,) = blocks(language, BINARY)
    source = tmp_path / {"cpp": "writer.cpp", "rust": "writer.rs", "csharp": "writer.cs"}[language]
    source.write_text(program)
    assert subprocess.run(built(source), capture_output=True, check=True).stdout == REQUEST


def test_python_of_the_docs_writes_and_reads_the_same() -> None:
    import msgspec
    import numpy as np

    from app.wire.msgpack_body import decode

    (program,) = blocks("python", BINARY)
    names: dict[str, Any] = {}
    exec(compile(program, "binary.md", "exec"), names)
    np.testing.assert_array_equal(decode(names["body"])["observation"], decode(REQUEST)["observation"])
    np.testing.assert_array_equal(names["array"](msgspec.msgpack.decode(ANSWER)["action"]), np.float32([0.5, -1.25]))


# docs/how-to/triton-clients.md

TRITON = (ROOT / "docs" / "how-to" / "triton-clients.md").read_text()


def test_an_inference_request_of_the_docs_answers_as_shown(server: RunningServer) -> None:
    server.reload("cartpole").raise_for_status()  # others roll back
    for command, answer in examples(TRITON):
        assert _form(answered(server, command)) == _form(json.loads(answer)), command


def test_a_triton_client_runs_as_the_docs_show_it(server: RunningServer) -> None:
    try:
        python = python_of_clients()
    except NoClients as error:
        pytest.skip(f"there is no environment with the clients: {error}")
    program = "\n".join(blocks("python", TRITON)).replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run([python, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3


# docs/how-to/tensorflow-serving-clients.md

TENSORFLOW_SERVING = (ROOT / "docs" / "how-to" / "tensorflow-serving-clients.md").read_text()


def test_predict_requests_of_the_docs_answer_as_shown(server: RunningServer) -> None:
    server.reload("cartpole").raise_for_status()  # others roll back
    for command, answer in examples(TENSORFLOW_SERVING):
        assert _form(answered(server, command)) == _form(json.loads(answer)), command


def test_a_client_of_tensorflow_serving_runs_as_the_docs_show_it(server: RunningServer) -> None:
    names: dict[str, Any] = {}
    for program in blocks("python", TENSORFLOW_SERVING):
        exec(compile(program.replace("http://localhost:8000", server.url), "tensorflow-serving.md", "exec"), names)
    assert names["state"].keys() == {"1/0", "1/1"}


# docs/how-to/openpi-clients.md


def test_an_openpi_client_runs_as_the_docs_show_it(server: RunningServer) -> None:
    try:
        python = python_of_clients()
    except NoClients as error:
        pytest.skip(f"there is no environment with the clients: {error}")
    text = (ROOT / "docs" / "how-to" / "openpi-clients.md").read_text()
    program = "\n".join(blocks("python", text)).replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "{'observation': {'dtype': 'float32', 'shape': [4]}}"
    assert "'reset': True" in lines[2]
    assert lines[3] == "export"
    assert lines[4:] == [
        "Error in inference server:",
        "observation: shape [3]; expected float32 of shape [4], or a batch of shape [n, 4]",
    ]


# docs/tutorials/simulators.md

SIMULATORS = (ROOT / "docs" / "tutorials" / "simulators.md").read_text()


def test_a_session_of_the_docs_answers_as_shown(server: RunningServer) -> None:
    shown = examples(SIMULATORS)
    assert len(shown) >= 4
    server.reload("cartpole").raise_for_status()  # others roll back
    for command, answer in shown:
        assert _form(answered(server, command)) == _form(json.loads(answer)), command


def test_simulators_in_python_run_as_the_docs_show_them(server: RunningServer) -> None:
    programs = blocks("python", SIMULATORS)
    assert len(programs) >= 8
    names: dict[str, Any] = {}
    for program in programs:
        exec(compile(program.replace("http://localhost:8000", server.url), "simulators.md", "exec"), names)
    assert len(names["actions"]) == 32
    assert sum(trajectory.is_boundary() for trajectory in names["trajectories"]) == 2
    for client in ("policy", "memory", "arm", "latest"):
        names[client].close()


@pytest.mark.parametrize("block", blocks("sh", SIMULATORS), ids=lambda block: block.split()[0])
def test_commands_of_the_docs_print_lines_like_those_shown(server: RunningServer, block: str, tmp_path: Path) -> None:
    *lines, shown = block.splitlines()
    command = "\n".join(["set -e", *lines])
    found(lines[0].split()[0])
    address = server.url.removeprefix("http://")
    command = command.replace("localhost:8000", address).replace("localhost 8000", address.replace(":", " "))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(PATH=path, PYTHONPATH=str(ROOT), OPENBLAS_NUM_THREADS="1")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert _kind_of_line(done.stdout.strip()) == _kind_of_line(shown.removeprefix("# "))


def _kind_of_line(line: str) -> str:
    """The line without its numbers, and without the weights: other tests swap them."""
    return re.sub(r"\d+", "1", re.sub(r"weights \w+", "weights", line))


@pytest.mark.parametrize(("language", "file"), [("js", "simulator.mjs")])
def test_excerpts_of_the_docs_stand_in_the_examples(language: str, file: str) -> None:
    (excerpt,) = blocks(language, SIMULATORS)
    assert excerpt in (ROOT / "examples" / file).read_text()


def test_every_link_and_file_of_the_page_is_there() -> None:
    files = re.findall(r"examples/[\w.]+", SIMULATORS.replace("examples.", "examples/"))
    assert {Path(name).name for name in files} >= {"simulator.cpp", "Simulator.cs", "simulator.mjs", "self_play.py"}
    for name in re.findall(r"\]\(([\w./-]+\.md)", SIMULATORS):
        assert (ROOT / "docs" / "tutorials" / name).exists(), name


# docs/how-to/test-a-simulator.md


def test_tests_of_a_simulator_pass_as_the_docs_show_them(tmp_path: Path) -> None:
    from tests.support import policies

    policies.export("cartpole", tmp_path / "policies" / "cartpole")
    (program,) = blocks("python", (ROOT / "docs" / "how-to" / "test-a-simulator.md").read_text())
    (tmp_path / "test_simulator.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_simulator.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
