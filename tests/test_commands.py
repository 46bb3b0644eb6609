"""Every command as somebody types it: in a process of its own, with an environment that holds nothing but a PATH."""

import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tf_agents.policies import policy_saver

from tests.support import saver_policies as policies
from tests.support.ports import port_below_outgoing
from tests.support.saver_policies import SAVERS, Saved
from tests.support.server import ROOT

KINDS = ("fixed batch, recurrent",)  # with a distribution


def bare(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", **more}


def ran(*arguments: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=bare(**env), capture_output=True, text=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of TF-Agents' own saver."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    policy_saver.PolicySaver(policies.q()).save(str(folder))
    return folder


def of_kinds(full: bool, saved: Saved) -> list[Path]:
    return [saved.folder(name) for name in (SAVERS if full else KINDS)]


# python -m saver verify


def test_verify_finds_exports_of_every_kind_well_from_a_shell(saved: Saved, full: bool, tmp_path: Path) -> None:
    """Elsewhere, by PYTHONPATH, as a trainer's machine has it; and nothing but the result is printed."""
    for folder in of_kinds(full, saved):
        done = ran("saver", "verify", folder, cwd=tmp_path, PYTHONPATH=str(ROOT))
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        first, *lines, last = done.stdout.splitlines()
        assert first == str(folder)
        assert last.startswith("all well: ")
        looked_at = {line.split()[0]: line.split()[1] for line in lines if line[0] != " "}
        assert looked_at["action"] == looked_at["files"] == "ok"
        if folder.name not in ("nested", "no nest paths", "random"):
            assert looked_at["distribution"] == looked_at["sample"] == "ok"


def test_verify_says_what_a_plain_export_lacks(plain: Path) -> None:
    done = ran("saver", "verify", plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert "TF-Agents' own PolicySaver leaves nothing to compare with" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing looked at, 1 skipped"


def test_verify_looks_at_what_it_can_where_tensorflow_is_alone(saved: Saved, tmp_path: Path) -> None:
    """Here the others are hidden by modules that cannot be imported."""
    for name in ("tensorflow_probability", "tf_agents"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('No module named {name}')")
    done = ran("saver", "verify", saved.folder("input_fn"), cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stdout
    assert "export               skipped  cannot be loaded here: No module named tensorflow_probability" in done.stdout
    assert "sample               ok" in done.stdout
    assert done.stdout.splitlines()[-1] == "all well: 8 looked at, 1 skipped"


# python -m app inspect


def test_inspect_shows_exports_of_every_kind_from_a_shell(saved: Saved, plain: Path, full: bool) -> None:
    for folder in [*of_kinds(full, saved), plain] if full else [saved.folder("input_fn"), plain]:
        done = ran("app", "inspect", folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "What action takes" in done.stdout
        assert ("Distributions" in done.stdout) == (folder.name not in ("nested", "no nest paths", "random"))


# python -m app serve


def test_serve_shows_its_help() -> None:
    done = ran("app", "serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "NAME=FOLDER" in done.stdout


def test_serve_serves_plain_and_own_exports_from_elsewhere(saved: Saved, plain: Path, tmp_path: Path) -> None:
    """Until it is asked to stop; folders are relative to where it is started."""
    (tmp_path / "own").symlink_to(saved.folder("q"))
    (tmp_path / "plain").symlink_to(plain)
    command = [sys.executable, "-m", "app", "serve", "own", "other=plain", "--port", str(port_below_outgoing())]
    env = bare(PYTHONPATH=str(ROOT))
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server:
        lines = []
        try:
            for line in server.stdout:
                lines.append(line)
                if line.startswith("Limits:"):
                    break
        finally:
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate()
    assert server.returncode == 0, said
    assert any(line.startswith("  own: version export") for line in lines)
    assert any(line.startswith("  other: version export") for line in lines)
    assert not [line for line in lines if "on TensorFlow" in line]


# python -m demo


def test_demo_starts_and_stops_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", "--quick", "--plain", "--runs-dir", str(tmp_path / "runs")]
    env = bare(PYTHONPATH=str(ROOT))
    demo = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    with demo:
        select.select([demo.stdout], [], [])  # it says what it is about to do
        demo.send_signal(signal.SIGTERM)
        _, said = demo.communicate()
    assert demo.returncode == 128 + signal.SIGTERM
    assert said == "demo: stopped, and everything that it started\n"


# What is mistyped


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("saver", "verify", "x", "y"), "usage: python -m saver verify"),
        (("saver", "verify"), "usage: python -m saver verify"),
        (("saver", "push", "x"), "usage: python -m saver push"),
        (("saver", "push", "x", "http://localhost", "--tag", "y"), "usage: python -m saver push"),
        (("app", "serve", "x", "--prot", "1"), "usage: python -m app serve"),
        (("app", "inspect", "x", "--full"), "usage: python -m app inspect"),
        (("app", "inspect"), "usage: python -m app inspect"),
        (("app", "sever"), "usage: python -m app [-h]"),
    ],
)
def test_a_mistyped_command_shows_its_own_usage(arguments: tuple[str, ...], usage: str) -> None:
    done = ran(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(usage)
