"""A policy that cannot be opened does not keep the others from serving, and serves when its folder is mended."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.export import identify_export
from app.errors import UnusablePolicy
from tests.support import policies
from tests.support.server import ROOT, RunningServer, command, environment, serving

OBSERVATION = {"observation": [0.1, 0.0, 0.0, 0.0]}
# Any user but root, who may read everything.
NOBODY = 65534


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies, without the others that the session's fixture of this name has."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("cartpole", "recurrent"):
        policies.export(name, folder / name)
    return folder


def until(look: Callable[[], Any]) -> Any:
    """What `look` returns once that is true; what it takes meanwhile is a server that opens a policy."""
    deadline = time.monotonic() + 120
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, "--port", "0"), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )


def brief(server: RunningServer) -> dict[str, dict[str, Any]]:
    return {policy["name"]: policy for policy in server.http.get("/v1/policies").json()["policies"]}


def failed(server: RunningServer) -> set[str]:
    """The policies that a worker cannot serve: whichever accepts the connection."""
    return set(server.http.get("/readyz", headers={"Connection": "close"}).json()["failed"])


def broken_folders(exports: Path, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders that are no policy, each in its own way, by name; and what is said of each."""
    (folder / "a-file").write_text("no folder")
    (folder / "link").symlink_to(folder / "nowhere")
    (folder / "empty").mkdir()
    shutil.copytree(exports / "cartpole", folder / "damaged")
    (folder / "damaged" / "saved_model.pb").write_bytes(b"damaged")
    shutil.copytree(exports / "cartpole", folder / "plain-damaged")
    (folder / "plain-damaged" / "policy.json").unlink()
    (folder / "plain-damaged" / "saved_model.pb").write_bytes(b"damaged")
    places = {name: folder / name for name in ("typo", "a-file", "link", "empty", "damaged", "plain-damaged")}
    says = {
        "typo": "is not a folder",
        "a-file": "is not a folder",
        "link": "is a link that leads nowhere",
        "empty": "holds no SavedModel: saved_model.pb is missing",
        "damaged": "is no complete export: saved_model.pb",
        "plain-damaged": "cannot be loaded",
        "parent": "this folder holds the policies cartpole, recurrent: serve those",
    }
    return {**places, "parent": exports}, says


def test_the_others_serve_and_each_that_failed_says_why_and_is_opened_when_it_is_mended(
    exports: Path, tmp_path: Path
) -> None:
    places, says = broken_folders(exports, tmp_path)
    # The default policy is one of them: no other stands in for it.
    with serving({**places, "cartpole": exports / "cartpole"}, "--workers", "2") as server:
        http = server.http
        assert http.post("/v1/policies/cartpole/action", json=OBSERVATION).status_code == 200
        listed = brief(server)
        assert list(listed) == [*places, "cartpole"]
        assert listed["cartpole"]["ready"] is True
        assert "reason" not in listed["cartpole"]
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "failed": [*places]})
        assert http.get("/livez").status_code == 200
        text, metrics = "\n".join(server.lines), http.get("/metrics").text
        assert 'policy_server_ready{policy="cartpole"} 1.0' in metrics
        assert "Traceback" not in text
        for name, expected in says.items():
            assert expected in listed[name]["reason"], name
            assert str(places[name]) in listed[name]["reason"]
            assert {key: listed[name][key] for key in ("version", "engine", "ready")} == {
                "version": "", "engine": "", "ready": False,
            }  # fmt: skip
            for answer in (
                http.get(f"/v1/policies/{name}"),
                http.post(f"/v1/policies/{name}/action", json=OBSERVATION),
                http.post(f"/v1/policies/{name}/sessions", json=OBSERVATION),
                server.reload(name),
            ):
                assert (answer.status_code, answer.json()["title"]) == (503, "Not ready")
                assert listed[name]["reason"] in answer.json()["detail"]
            assert f"{name}: NOT SERVED: {listed[name]['reason']}" in text
            assert f"ERROR policy_server.start: {name}: cannot be opened: {listed[name]['reason']}" in text
            assert f'policy_server_ready{{policy="{name}"}} 0.0' in metrics
        assert http.post("/action", json=OBSERVATION).status_code == 503
        assert http.post("/v1/policies/nobody/action", json=OBSERVATION).status_code == 404
        paths = http.get("/openapi.json").json()["paths"]
        assert "/v1/policies/cartpole/action" in paths
        assert "/action" not in paths

        shutil.copytree(exports / "cartpole", tmp_path / "typo")
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(exports / "recurrent")
        # Each connection may lead to either worker, and one of them knows sooner than the other.
        until(lambda: not any({"typo", "link"} & failed(server) for _ in range(16)))
        answers = [http.post(path, json=OBSERVATION, headers={"Connection": "close"}).json() for path in 8 * PATHS]
        assert all(answer["version"] == "export" for answer in answers)
        assert brief(server)["link"]["ready"] is True
        assert http.get("/v1/policies/typo").json()["engine"] == "litert"
        paths = http.get("/openapi.json", headers={"Connection": "close"}).json()["paths"]
        assert {"/action", "/v1/policies/typo/action", "/v1/policies/link/sessions"} <= paths.keys()
        assert 'policy_server_ready{policy="typo"} 1.0' in http.get("/metrics").text
        # It takes part in swaps, and a worker that begins anew serves it too.
        assert server.reload("typo", checkpoint="export").status_code == 200
        worker = server.processes("app.worker")[0]
        os.kill(worker, 9)
        until(lambda: len(server.processes("app.worker")) == 2 and worker not in server.processes("app.worker"))
        for _ in range(16):
            assert http.post("/action", json=OBSERVATION, headers={"Connection": "close"}).status_code == 200
        # What still is wrong is logged again where the reason is another one.
        (tmp_path / "empty" / "saved_model.pb").write_bytes(b"no model")
        until(lambda: "cannot be loaded" in brief(server)["empty"]["reason"])
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.lines)


PATHS = ["/action", "/v1/policies/typo/action", "/v1/policies/link/action"]


@pytest.mark.parametrize("name", ["typo", "a-file", "link", "empty", "parent", "damaged"])
def test_one_that_is_served_alone_ends_the_server_with_one_line(exports: Path, tmp_path: Path, name: str) -> None:
    places, says = broken_folders(exports, tmp_path)
    end = ended(f"{name}={places[name]}")
    assert end.returncode == 1
    (line,) = [line for line in end.stderr.splitlines() if " INFO " not in line]
    assert line.startswith("policy server: ")
    assert says[name] in line


def test_where_none_can_be_opened_the_server_ends_and_names_each(exports: Path, tmp_path: Path) -> None:
    places, says = broken_folders(exports, tmp_path)
    end = ended(*(f"{name}={places[name]}" for name in ("typo", "link", "empty")))
    assert end.returncode == 1
    last = end.stderr.splitlines()[-1]
    assert last.startswith("policy server: none of 3 policies can be served: typo: ")
    assert all(says[name] in last for name in ("typo", "link", "empty"))
    assert "Traceback" not in end.stderr


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shut", [".", "saved_model.pb", "variables"])
def test_a_folder_that_may_not_be_read_is_named(exports: Path, tmp_path: Path, shut: str, plain: bool) -> None:
    folder = tmp_path / "shut"
    shutil.copytree(exports / "cartpole", folder)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)  # pytest's own are for its user alone
    if plain:
        (folder / "policy.json").unlink()
    (folder / shut).chmod(0)
    with pytest.raises(UnusablePolicy) as caught, as_nobody():
        identify_export(folder)
    (folder / shut).chmod(0o755)
    assert str(caught.value).startswith(f"{folder} ")
    assert "cannot be read: " in str(caught.value)
    assert str(caught.value).endswith("Permission denied")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: "),
        ("", "expected JSON objects as the route action takes them"),
        ("[1]", "item 1: expected JSON objects"),
        ('{"observation": [0, 0, 0, 0]}\nno JSON', "line 2: no JSON"),
        (json.dumps({"other": [OBSERVATION]}), "has inputs for 'other', which is not served; there are: p"),
    ],
)
def test_a_file_of_probe_inputs_that_cannot_be_used_is_reported_at_once(exports, tmp_path, content, says):
    file = tmp_path / "probes.json"
    if content is not None:
        file.write_text(content)
    end = ended(f"p={exports / 'cartpole'}", "--probe-inputs", str(file))
    assert end.returncode == 2
    (line,) = end.stderr.splitlines()
    assert line.startswith("policy server: ")
    assert says in line
    assert str(file) in line
