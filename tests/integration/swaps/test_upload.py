"""Checkpoints that are sent to the server: stored whole or not at all, and served when asked to."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.policies import NumberTrainer
from tests.support.ports import port_below_outgoing
from tests.support.server import ADMIN_TOKEN, ROOT, RunningServer, environment, serving

LIMIT = 4 << 20
BEARER = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
PATH = "/admin/policies/ours/checkpoints"


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NumberTrainer]:
    """Trainers that publish elsewhere; the first is the default policy."""
    folder = tmp_path_factory.mktemp("upload")
    return {
        "ours": NumberTrainer(folder / "ours", filler=100_000),
        "plain": NumberTrainer(folder / "plain", plain=True),
    }


@pytest.fixture(scope="module")
def server(trainers: dict[str, NumberTrainer]) -> Iterator[RunningServer]:
    """A server that swaps only when it is asked to, and takes 4 MiB at once."""
    folders = {name: trainer.folder for name, trainer in trainers.items()}
    with serving(folders, "--no-watch", prepared=True, POLICY_SERVER_UPLOAD_LIMIT_BYTES=str(LIMIT)) as running:
        yield running


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


def tar(folder: Path, *names: str, prefix: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    """The folder as `tar -c -C folder .` makes it, or only what is named."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in names or ("variables", "checkpoint.json"):
            if (folder / name).exists():
                archive.add(folder / name, prefix + name)
    return file.getvalue()


def put(server: RunningServer, name: str, body: object, policy: str = "ours", **how: object) -> httpx.Response:
    return server.admin.put(f"/admin/policies/{policy}/checkpoints/{name}", content=body, **how)


def number(server: RunningServer, policy: str = "ours") -> tuple[int, str]:
    answer = server.http.post(f"/v1/policies/{policy}/action", json={"observation": [7, 0, 0, 0]}).json()
    assert answer["action"][0] == answer["action"][1] == 1000 * answer["train_step"] + 7
    return answer["train_step"], answer["version"]


def stored(trainer: NumberTrainer) -> list[str]:
    """Everything that lies among the checkpoints, hidden folders too."""
    folder = trainer.folder / "checkpoints"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def until(condition: Callable[[], bool], timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("policy", ["ours", "plain"])
@pytest.mark.parametrize("manifest", [True, False])
def test_upload_with_activate_serves_at_once(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path, policy: str, manifest: bool
) -> None:
    step = 100 + manifest
    folder = elsewhere / trainers[policy].publish(step, f"at-once-{step}", elsewhere)
    body = tar(folder) if manifest else tar(folder, "variables", prefix="./")
    before = number(server, policy)[1]
    response = put(server, folder.name, body, policy, params={"activate": "true"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.keys() == {"version", "train_step", "previous", "took_ms"}
    assert (answer["version"], answer["train_step"], answer["previous"]) == (folder.name, step, before)
    assert number(server, policy) == (step, folder.name)
    assert server.http.get(f"/v1/policies/{policy}").json()["pinned"] == folder.name
    assert (trainers[policy].folder / "checkpoints" / folder.name / "checkpoint.json").is_file()


def test_upload_without_activate_is_stored_and_waits_for_a_reload(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    before = number(server)
    folder = elsewhere / trainers["ours"].publish(200, "waits", elsewhere)
    response = put(server, "waits", tar(folder))
    assert response.status_code == 201
    digest = json.loads((folder / "checkpoint.json").read_text())["digest"]
    assert response.json() == {"version": "waits", "train_step": 200, "digest": digest}
    assert number(server) == before
    assert server.reload("ours").json()["version"] == "waits"
    assert number(server) == (200, "waits")


def test_a_name_that_is_taken_gets_other_weights_and_another_digest(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    digests = set()
    for step in (300, 301):
        trainers["ours"].publish(step, "again", elsewhere)
        digests.add(put(server, "again", tar(elsewhere / "again")).json()["digest"])
        assert put(server, "again", tar(elsewhere / "again"), params={"activate": "1"}).status_code == 200
        assert number(server) == (step, "again")
    assert len(digests) == 2


def test_two_uploads_at_once_do_not_meet(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    bodies = {}
    for step in range(400, 404):
        name = trainers["ours"].publish(step, f"both-{step}", elsewhere)
        bodies[name] = tar(elsewhere / name)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: put(server, name, bodies[name]), bodies))
    assert [a.status_code for a in answers] == [201] * 4
    assert [a.json()["train_step"] for a in answers] == [400, 401, 402, 403]
    assert server.reload("ours").json()["train_step"] == 403


@pytest.mark.parametrize("media_type", ["application/x-tar", "application/octet-stream", None])
def test_media_types_of_tars_are_taken(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path, media_type: str | None
) -> None:
    trainers["ours"].publish(1, "typed", elsewhere)
    headers = {"Content-Type": media_type} if media_type else {}
    assert put(server, "typed", tar(elsewhere / "typed"), headers=headers).status_code == 201


def test_curl_can_upload(server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path) -> None:
    folder = elsewhere / trainers["ours"].publish(500, "curled", elsewhere)
    for how in ("-T -", "-X PUT --data-binary @-"):
        send = f"curl -s {how} '{server.url}{PATH}/curled?activate=true' -H 'Authorization: Bearer {ADMIN_TOKEN}'"
        command = f"tar -c -C {folder} . | {send}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["version"] == "curled", done.stdout


def _with_nan(trainer: NumberTrainer, elsewhere: Path) -> None:
    trainer.policy.filler.assign(np.full(100_000, np.nan, np.float32))
    trainer.publish(900, "bad", elsewhere)
    trainer.policy.filler.assign(np.zeros(100_000, np.float32))


def _of_another_policy(trainer: NumberTrainer, elsewhere: Path) -> None:
    NumberTrainer(elsewhere / "other", filler=5).publish(900, "bad", elsewhere)


def _without(name: str) -> Callable[[NumberTrainer, Path], None]:
    def damage(trainer: NumberTrainer, elsewhere: Path) -> None:
        trainer.publish(900, "bad", elsewhere)
        (elsewhere / "bad" / name).unlink()
        (elsewhere / "bad" / "checkpoint.json").unlink()

    return damage


def _other_bytes(trainer: NumberTrainer, elsewhere: Path) -> None:
    trainer.publish(900, "bad", elsewhere)
    shard = elsewhere / "bad" / "variables" / "variables.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")


def _lying(trainer: NumberTrainer, elsewhere: Path) -> None:
    trainer.publish(900, "bad", elsewhere)
    manifest = elsewhere / "bad" / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace("900", "901"))


def _nothing_listed(trainer: NumberTrainer, elsewhere: Path) -> None:
    trainer.publish(900, "bad", elsewhere)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest = {"format": 1, "train_step": 900, "digest": empty, "files": {}}
    (elsewhere / "bad" / "checkpoint.json").write_text(json.dumps(manifest))


def _no_manifest(trainer: NumberTrainer, elsewhere: Path) -> None:
    trainer.publish(900, "bad", elsewhere)
    (elsewhere / "bad" / "checkpoint.json").write_text("[" * 100_000)


UNFIT = {
    "not finite": (_with_nan, "NaN"),
    "another policy's": (_of_another_policy, "[100000]"),
    "index missing": (_without("variables/variables.index"), "index"),
    "shard missing": (_without("variables/variables.data-00000-of-00001"), "cannot be read"),
    "other bytes": (_other_bytes, "sha256"),
    "wrong train step": (_lying, "901"),
    "nothing listed": (_nothing_listed, "does not list"),
    "endless manifest": (_no_manifest, "not JSON"),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("activate", ["true", "false"])
def test_weights_that_may_not_serve_are_not_stored(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path, kind: str, activate: str
) -> None:
    make, reason = UNFIT[kind]
    make(trainers["ours"], elsewhere)
    before, there = number(server), stored(trainers["ours"])
    response = put(server, "bad", tar(elsewhere / "bad"), params={"activate": activate})
    assert response.status_code == 409, response.text
    assert reason in response.json()["detail"]
    assert number(server) == before
    assert stored(trainers["ours"]) == there


def _link() -> bytes:
    info = tarfile.TarInfo("variables/variables.index")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info.tobuf() + bytes(1024)


@pytest.mark.parametrize(
    ("body", "where", "problem"),
    [
        (b"", "body", "is empty"),
        (b"no tar at all".ljust(1024), "body", "no header of a tar"),
        (_link(), "variables/variables.index", "is a link"),
        (tarfile.TarInfo("../../escape").tobuf() + bytes(1024), "../../escape", "leads out"),
        (tarfile.TarInfo("/tmp/escape").tobuf() + bytes(1024), "/tmp/escape", "absolute"),
        (tarfile.TarInfo("variables/x").tobuf(), "body", "ends after 512 bytes"),
        (bytes(10240), "variables", "missing"),
    ],
)
def test_a_bad_tar_is_explained_and_nothing_is_stored(
    server: RunningServer, trainers: dict[str, NumberTrainer], body: bytes, where: str, problem: str
) -> None:
    before, there = number(server), stored(trainers["ours"])
    response = put(server, "bad", body)
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    assert error["where"] == where
    assert problem in error["problem"]
    assert error["expected"]
    assert number(server) == before
    assert stored(trainers["ours"]) == there


@pytest.mark.parametrize("name", ["export", ".hidden", "-a", "a%20b", "%C3%BC", "x" * 300, "a%0A"])
def test_a_name_that_no_checkpoint_can_have_is_422(
    server: RunningServer, trainers: dict[str, NumberTrainer], name: str
) -> None:
    there = stored(trainers["ours"])
    response = put(server, name, b"x")
    assert response.status_code == 422
    assert response.json()["errors"][0]["where"] == "name"
    assert stored(trainers["ours"]) == there


@pytest.mark.parametrize("name", ["a%2Fb", "%2E%2E%2Fx", "..%2f..%2fx"])
def test_a_name_with_a_slash_is_no_path_of_ours(server: RunningServer, name: str) -> None:
    assert put(server, name, b"x").status_code in (404, 405)


def test_too_large_a_body_is_refused_before_it_is_read(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    before, there = number(server), stored(trainers["ours"])
    promised = tarfile.TarInfo("variables/x")
    promised.size = LIMIT + 1
    assert put(server, "large", promised.tobuf() + bytes(1024)).status_code == 413
    assert put(server, "large", bytes(LIMIT + 1)).status_code == 413
    unsized = (bytes(1 << 16) for _ in range(LIMIT // (1 << 16) + 1))
    assert put(server, "large", unsized).status_code == 413
    assert number(server) == before
    assert stored(trainers["ours"]) == there


def test_a_body_said_to_be_too_large_is_refused_without_a_byte_of_it(server: RunningServer) -> None:
    with _begun(server, f"Content-Length: {2**40}") as connection:
        assert b" 413 " in connection.recv(4096).splitlines()[0]


def test_everything_about_a_call_is_checked_before_its_body(server: RunningServer) -> None:
    assert put(server, "a", b"x", headers={"Content-Type": "application/json"}).status_code == 415
    assert put(server, "a", b"x", headers={"Content-Type": "application/gzip"}).status_code == 415
    assert put(server, "a", b"x", policy="nobody").status_code == 404
    assert put(server, "a", b"x", params={"activate": "perhaps"}).status_code == 422
    assert server.http.put(f"{PATH}/a", content=b"x").status_code == 401
    wrong = server.http.put(f"{PATH}/a", content=b"x", headers={"Authorization": "Bearer nonsense"})
    assert wrong.status_code == 401


def _begun(server: RunningServer, *headers: str) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 20)
    head = [f"PUT {PATH}/gone HTTP/1.1", "Host: x", f"Authorization: {BEARER['Authorization']}", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    body = tar(elsewhere / trainers["ours"].publish(1, "gone", elsewhere))
    there = stored(trainers["ours"])
    with _begun(server, f"Content-Length: {len(body)}") as connection:
        connection.sendall(body[: len(body) // 2])
        until(lambda: stored(trainers["ours"]) != there)
        assert put(server, "meanwhile", body).status_code == 201
    until(lambda: stored(trainers["ours"]) == sorted([*there, "meanwhile"]))
    shutil.rmtree(trainers["ours"].folder / "checkpoints" / "meanwhile")


def test_answers_go_on_while_a_large_checkpoint_comes_slowly(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    body = tar(elsewhere / trainers["ours"].publish(600, "slow", elsewhere))

    def slowly() -> Iterator[bytes]:
        for start in range(0, len(body), 1 << 15):
            assert number(server, "plain")
            yield body[start : start + (1 << 15)]

    assert put(server, "slow", slowly()).status_code == 201


def test_the_document_shows_the_route(server: RunningServer) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    operation = paths["/admin/policies/{policy}/checkpoints/{name}"]["put"]
    assert operation["requestBody"]["content"].keys() == {"application/x-tar"}
    assert operation["responses"].keys() >= {"200", "201"}
    assert {p["name"] for p in operation["parameters"]} == {"policy", "name", "activate"}


# saver push


def push(*arguments: object, token: str = ADMIN_TOKEN, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "saver", "push", *map(str, arguments)],
        cwd=ROOT,
        env=environment(NO_PROXY="*", **{"POLICY_SERVER_ADMIN_TOKEN": token, **env}),
        capture_output=True,
        text=True,
    )


def test_push_and_activate(server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path) -> None:
    folder = elsewhere / trainers["ours"].publish(700, None, elsewhere)
    before = number(server)[1]
    done = push(folder, server.url, "--activate")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ours: 0000000700 (train step 700) serves; before it {before}; took ")
    assert len(done.stdout.splitlines()) == 1
    assert number(server) == (700, "0000000700")


@pytest.mark.parametrize("how", ["option", "address"])
def test_push_for_a_policy_under_another_name(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path, how: str
) -> None:
    folder = elsewhere / trainers["plain"].publish(701, "whatever", elsewhere)
    where = [f"{server.url}/", "--policy", "plain"] if how == "option" else [f"{server.url}/v1/policies/plain"]
    done = push(folder, *where, "--name", f"pushed-{how}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"plain: pushed-{how} (train step 701) is stored, digest ")
    assert f"pushed-{how}" in stored(trainers["plain"])


def test_what_cannot_be_pushed_is_reported_in_one_line(
    server: RunningServer, trainers: dict[str, NumberTrainer], elsewhere: Path
) -> None:
    good = elsewhere / trainers["ours"].publish(1, "good", elsewhere)
    other = elsewhere / "other"
    _of_another_policy(trainers["ours"], elsewhere)
    nowhere = f"http://127.0.0.1:{port_below_outgoing()}"
    large = elsewhere / "large"
    (large / "variables").mkdir(parents=True)
    (large / "variables" / "variables.index").write_bytes(bytes(2 * LIMIT))
    for arguments, token, said in [
        ((elsewhere / "none", server.url), ADMIN_TOKEN, "is no folder"),
        ((elsewhere, server.url), ADMIN_TOKEN, "is no checkpoint"),
        ((other, server.url), ADMIN_TOKEN, "is an export"),
        ((good, nowhere), ADMIN_TOKEN, f"{nowhere} cannot be reached"),
        ((good, "ftp://x"), ADMIN_TOKEN, "ftp://x cannot be reached"),
        ((good, server.url), "", "POLICY_SERVER_ADMIN_TOKEN"),
        ((good, server.url), "nonsense", "POLICY_SERVER_ADMIN_TOKEN"),
        ((good, server.url, "--name", "export"), ADMIN_TOKEN, "422"),
        ((good, server.url, "--name", "../x"), ADMIN_TOKEN, "cannot name a checkpoint"),
        ((good, server.url, "--policy", "nobody"), ADMIN_TOKEN, "no policy 'nobody'"),
        ((good, f"{server.url}/v1/policies/ours", "--policy", "plain"), ADMIN_TOKEN, "expected one of the two"),
        ((good, f"{server.url}/docs"), ADMIN_TOKEN, "404"),
        ((elsewhere / "bad", server.url), ADMIN_TOKEN, "[100000]"),
        ((large, server.url), ADMIN_TOKEN, "413"),
    ]:
        done = push(*arguments, token=token)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


# Watched, and where the policy's own folder cannot be written


def test_uploads_are_watched_and_have_a_second_place_and_are_audited(tmp_path: Path) -> None:
    trainer, closed = NumberTrainer(tmp_path / "policy"), NumberTrainer(tmp_path / "closed")
    (closed.folder / "checkpoints").write_text("in the way of the folder, also for root")
    folders = {"ours": trainer.folder, "closed": closed.folder}
    elsewhere = tmp_path / "elsewhere"
    with serving(folders, "--state-dir", str(tmp_path / "state"), prepared=True) as server:
        for step in (1, 2):
            for policy in folders:
                name = trainer.publish(step, None, elsewhere)
                assert put(server, name, tar(elsewhere / name), policy).status_code == 201
                until(lambda policy=policy, step=step: number(server, policy)[0] == step)
        assert stored(trainer) == ["0000000001", "0000000002"]
        assert sorted(os.listdir(tmp_path / "state" / "closed" / "uploads")) == stored(trainer)
        body = tar(elsewhere / trainer.publish(9, None, elsewhere))
        assert put(server, "0000000009", body[:700], "ours").status_code == 422
        assert server.http.put(f"{PATH}/x", content=b"").status_code == 401
        assert server.stop() == 0
        audited = [line for line in server.lines if "PUT /admin/policies/ours/checkpoints/" in line]
        assert len(audited) == 4
    with serving({"closed": closed.folder}, "--state-dir", str(tmp_path / "state")) as server:
        assert number(server, "closed") == (2, "0000000002")


def test_without_a_token_and_without_a_place_nothing_is_stored(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "policy")
    (trainer.folder / "checkpoints").write_text("in the way of the folder, also for root")
    name = trainer.publish(1, None, tmp_path)
    with serving({"ours": trainer.folder}) as server:
        response = put(server, name, tar(tmp_path / name))
        assert response.status_code == 501
        assert "no folder for checkpoints can be written" in response.json()["detail"]
    with serving({"ours": trainer.folder}, POLICY_SERVER_ADMIN_TOKEN="") as server:
        assert put(server, name, b"x").status_code == 403
        done = push(tmp_path / name, server.url)
        assert done.returncode == 1
        assert "started with POLICY_SERVER_ADMIN_TOKEN" in done.stderr
