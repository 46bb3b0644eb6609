"""Every example plays against a real server, where the machine has what its language needs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.compilers import cpp, csharp, found
from tests.support.scripted_server import Answer, Drop, scripted
from tests.support.server import ROOT, RunningServer

EXAMPLES = ROOT / "examples"
Program = Callable[[str, str, int], str]


def printed(*command: object) -> str:
    """The one line that a program prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def numbers(line: str, pattern: str) -> list[float]:
    found = re.fullmatch(pattern, line)
    assert found, line
    return [float(number) for number in found.groups()]


def python(module: str, *arguments: object) -> str:
    return printed(sys.executable, "-m", f"examples.{module}", *arguments)


def test_a_vector_of_cartpoles_plays_with_one_session(server: RunningServer) -> None:
    line = python("gymnasium_vector", server.url, "--environments", 8, "--steps", 60)
    pattern = r"(\d+) steps of (\d+) environments, (\d+) episodes, reward (\d+), weights export"
    steps, environments, episodes, reward = numbers(line, pattern)
    assert (steps, environments) == (60, 8)
    assert episodes >= 8
    assert 0 <= 60 * 8 - reward <= episodes  # 1 for each step but those that reset


def test_a_tf_agents_driver_plays_whole_episodes(server: RunningServer) -> None:
    line = python("tf_agents_driver", server.url, "--policy", "boltzmann", "--episodes", 3)
    steps, episodes, mean = numbers(line, r"(\d+) steps, (\d+) episodes, mean return ([\d.]+)")
    assert episodes == 3
    assert mean * 3 == pytest.approx(steps, abs=0.2)


def test_two_policies_play_against_each_other(server: RunningServer) -> None:
    line = python("self_play", server.url, "--runner", "recurrent", "--games", 3)
    steps, games, won = numbers(line, r"(\d+) steps, (\d+) games, the chaser won (\d+)")
    assert games == 3
    assert won <= games <= steps <= 180


@pytest.fixture(scope="module", params=["simulator.cpp", "simulator.mjs", "Simulator.cs"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Plays with a policy of the server at a URL, so many steps; returns what it prints."""
    name = request.param
    if name.endswith(".mjs"):
        node = found("node")
        return lambda url, policy, steps: printed(node, EXAMPLES / name, url, policy, steps)
    source = Path(shutil.copy(EXAMPLES / name, tmp_path_factory.mktemp("built")))
    if name.endswith(".cs"):
        run = csharp(source)
        return lambda url, policy, steps: printed(*run, url, policy, steps)
    run = cpp(source)
    return lambda url, policy, steps: printed(*run, urlsplit(url).hostname, urlsplit(url).port, policy, steps)


@pytest.mark.parametrize("policy", ["cartpole", "recurrent"])
def test_a_simulator_in_another_language_plays_a_session(server: RunningServer, program: Program, policy: str) -> None:
    pattern = r"(\d+) steps, (\d+) episodes, weights export"
    steps, episodes = numbers(program(server.url, policy, 200), pattern)
    assert steps == 200
    assert 2 <= episodes <= 25


def answer_of(status: int, **fields: object) -> Answer:
    return Answer(status, json.dumps(fields, separators=(",", ":")).encode(), {"Content-Type": "application/json"})


def test_a_simulator_in_another_language_sends_what_was_lost_once_more(program: Program) -> None:
    steps = [answer_of(200, step=step, action=1, version="0000000700", train_step=700) for step in range(3)]
    lost = Drop(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    gone = answer_of(404, title="Unknown session", detail="it has ended")
    with scripted(Drop(), steps[0], lost, steps[1], steps[2], Drop(), gone) as script:
        assert program(script.url, "cartpole", 2) == "2 steps, 0 episodes, weights 0000000700"
    begin, *played = [json.loads(asked.body) for asked in script.asked[:-2]]
    assert {fields["run_id"] for fields in [begin, *played]} == {begin["run_id"]}
    assert begin["id"] in script.asked[-1].path
    assert [fields.get("step") for fields in played] == [None, 1, 1, 2]
    assert script.asked[2].body == script.asked[3].body
    assert [asked.method for asked in script.asked[-2:]] == ["DELETE", "DELETE"]


def test_a_simulator_in_another_language_says_why_it_was_refused(program: Program) -> None:
    with (
        scripted(answer_of(422, title="Does not fit the spec", detail="shape [4]; expected [7]")) as script,
        pytest.raises(AssertionError, match=r"expected \[7\]"),
    ):
        program(script.url, "cartpole", 2)
