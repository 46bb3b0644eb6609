"""The command line, up to the point where a server would start."""

import importlib.util
import socket
from pathlib import Path

import pytest

from app.__main__ import main
from app.settings import all_settings, variable


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("policies", *(setting.name for setting in all_settings())):
        monkeypatch.delenv(variable(name), raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status, and what was written to standard error."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, capsys.readouterr().err


def test_without_a_policy_the_status_is_that_of_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "serve") == (
        2,
        "policy server: no policy given: expected NAME=FOLDER, or FOLDER, at least once\n",
    )


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--port", "x"), "--port is 'x', expected an integer"),
        (("--workers", "0"), "--workers is 0, expected 1 to 64"),
        (("--engine", "jax"), "--engine is 'jax', expected one of auto, litert, tensorflow"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], option: tuple[str, ...], says: str
) -> None:
    assert run(capsys, "serve", "p=/p", *option) == (2, f"policy server: {says}\n")


def test_an_option_that_is_none_shows_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "serve", "p=/p", "--wrokers", "2")
    assert status == 2
    assert "serve" in text.splitlines()[0]
    assert text.endswith("unrecognized arguments: --wrokers 2\n")


def test_a_port_in_use_is_reported_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = run(capsys, "serve", "p=/p", "--port", str(port))
    assert (status, text) == (2, f"policy server: cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_variables_that_are_no_settings_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICY_SERVER_WROKERS", "2")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that no server starts
        _, text = run(capsys, "serve", "p=/p", "--port", str(taken.getsockname()[1]))
    assert text.startswith("policy server: POLICY_SERVER_WROKERS is no setting and is ignored\n")


def test_a_folder_that_is_no_export_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, text = run(capsys, "inspect", str(tmp_path))
    assert status == 1
    assert text.startswith("policy server: ")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("absent", ["opentelemetry", "opentelemetry.exporter.otlp.proto.http"])
def test_traces_need_their_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    find = importlib.util.find_spec

    def found(name: str) -> object:
        if name == absent:
            return None
        if name.startswith(f"{absent}."):
            raise ModuleNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    says = "--traces needs the extra opentelemetry: pip install 'policy-server[opentelemetry]'"
    assert run(capsys, "serve", "p=/p", "--traces") == (2, f"policy server: {says}\n")
