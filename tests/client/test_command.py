"""The command `policy-client`, beside a server that follows a script."""

import json

import pytest

from policy_client import __version__
from policy_client.__main__ import main
from tests.support.scripted_server import Answer, Drop, nobody, problem, said, scripted

TENSOR = {"dtype": "float32", "shape": [2], "data": b"\0\0\0?\0\0\xc0\xbf"}


def test_action_prints_the_action_and_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(said(action=TENSOR, version="0000000700", train_step=700)) as script:
        arguments = ["action", script.url, "[0.1, 0, 0, 0]", "--policy", "arm", "--mode", "sample", "--seed", "7"]
        assert main(arguments) == 0
    (asked,) = script.asked
    assert asked.path == "/v1/policies/arm/action"
    assert asked.headers["user-agent"] == f"policy-client/{__version__}"
    assert asked.fields == {"observation": [0.1, 0, 0, 0], "options": {"mode": "sample", "seed": 7}}
    assert json.loads(capsys.readouterr().out) == {"action": [0.5, -1.5], "version": "0000000700", "train_step": 700}


def test_describe_finds_the_default_policy(capsys: pytest.CaptureFixture[str]) -> None:
    described = {"name": "arm", "specs": {}}
    answers = (Answer(200, json.dumps(body).encode()) for body in ({"policies": [{"name": "arm"}]}, described))
    with scripted(*answers) as script:
        assert main(["describe", script.url]) == 0
    assert [asked.path for asked in script.asked] == ["/v1/policies", "/v1/policies/arm"]
    assert json.loads(capsys.readouterr().out) == described


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_SERVER_DATA_TOKEN", "secret")
    with scripted(Answer(200, b"{}")) as script:
        assert main(["describe", script.url, "--policy", "arm"]) == 0
    assert script.asked[0].headers["authorization"] == "Bearer secret"


def test_a_refusal_and_a_server_that_is_not_there_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(problem(404, "Not found", "there is no policy nobody")) as script:
        assert main(["describe", script.url, "--policy", "nobody"]) == 1
    assert main(["describe", nobody(), "--policy", "arm"]) == 1
    refused, absent = capsys.readouterr().err.splitlines()
    assert refused.startswith("policy-client: GET ")
    assert refused.endswith("404 Not found: there is no policy nobody")
    assert "no answer after 1 attempt" in absent


def test_with_patience_it_asks_again() -> None:
    with scripted(Drop(), Answer(200, b"{}")) as script:
        assert main(["describe", script.url, "--policy", "arm", "--patience-s", "30"]) == 0
    assert len(script.asked) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: command"),
        (["action", "http://localhost"], "the following arguments are required: OBSERVATION"),
        (["action", "http://localhost", "[1,"], "'[1,' is not JSON"),
        (["action", "http://localhost", "[1]", "--mode", "best"], "invalid choice: 'best'"),
    ],
)
def test_a_wrong_call_exits_with_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert says in capsys.readouterr().err
