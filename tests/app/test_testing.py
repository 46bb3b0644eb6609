"""Servers as `app.testing` starts, awaits and stops them; here small programs stand where a server's process would."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import testing
from app.testing import ServerFailed
from tests.support import processes

ENDLESS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
PARENT = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', %r]).pid, flush=True)"


def launched(folder: Path, program: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / "log"
    return testing.launch([sys.executable, "-c", program], log, {}, folder), log


def printed(log: Path) -> str:
    """Waits for the first line; its end may be written after its beginning."""
    while not (text := log.read_text()).endswith("\n"):
        pass
    return text


def test_it_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(testing.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"exit status 1; its log, .*server\.log, ends: .*absent"):
        testing.start({"p": tmp_path / "absent"}, log=tmp_path / "server.log")


def test_settings_of_the_caller_do_not_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_SERVER_PORT", "1")
    monkeypatch.setenv("OTHERS", "stay")
    assert "POLICY_SERVER_PORT" not in testing.inherited_environment()
    assert testing.inherited_environment()["OTHERS"] == "stay"


def test_stopping_returns_the_exit_status(tmp_path: Path) -> None:
    process, _ = launched(tmp_path, ENDLESS)
    assert testing.stop(process) == -signal.SIGTERM
    assert testing.stop(process) == -signal.SIGTERM  # once more changes nothing


def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    process, log = launched(tmp_path, DEAF)
    said = printed(log)
    assert testing.stop(process, timeout_s=0.1) == -signal.SIGKILL
    assert said == "deaf\n"


def test_processes_that_it_left_behind_are_killed(tmp_path: Path) -> None:
    process, log = launched(tmp_path, PARENT % ENDLESS)
    child = int(printed(log))
    assert process.wait() == 0
    assert processes.state(child)
    testing.stop(process)
    while processes.state(child):
        pass


def test_a_server_that_never_listens_is_given_up(tmp_path: Path) -> None:
    process, log = launched(tmp_path, ENDLESS)
    try:
        with pytest.raises(ServerFailed, match=r"does not listen after 0\.1 s; its log, .*, is empty"):
            testing._wait_for_address(process, log, 0.1)
    finally:
        testing.stop(process)


def test_the_address_is_known_once_all_lines_of_the_start_are_there(tmp_path: Path) -> None:
    process, log = launched(tmp_path, ENDLESS)
    try:
        log.write_text("2026 INFO: something\nListening on http://127.0.0.1:4711 (API at /docs)\n  p: version export\n")
        with pytest.raises(ServerFailed, match="Listening on"):
            testing._wait_for_address(process, log, 0.1)
        with log.open("a") as text:
            text.write("Limits: body 1 MiB\n")
        assert testing._wait_for_address(process, log, 60) == "http://127.0.0.1:4711"
    finally:
        testing.stop(process)


def test_free_ports_are_free() -> None:
    assert 1024 <= testing.free_port() <= 65535
