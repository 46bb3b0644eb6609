"""Going back, staying there, and coming back there after a restart or a crash."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.testing import ServerFailed
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollback")


@pytest.fixture(scope="module")
def trainers(folder: Path) -> dict[str, NumberTrainer]:
    """Of two policies; of the first one two checkpoints are there at the start."""
    made = {name: NumberTrainer(folder / name) for name in ("p", "story")}
    for step in (1, 2):
        made["p"].publish(step)
    return made


@pytest.fixture(scope="module")
def running(folder: Path, trainers: dict[str, NumberTrainer]) -> Iterator[RunningServer]:
    folders = {name: trainer.folder for name, trainer in trainers.items()}
    with serving(folders, "--state-dir", str(folder / "state"), prepared=True) as server:
        yield server


def number(server: RunningServer) -> int:
    answer = server.http.post("/action", json={"observation": [0, 0, 0, 0]}).raise_for_status().json()
    return answer["action"][0] // 1000


def rollback(server: RunningServer) -> dict:
    return server.admin.post("/admin/policies/p/rollback").raise_for_status().json()


def test_rollback_is_one_call_and_answers_like_a_reload(
    running: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    server, trainer = running, trainers["p"]
    server.reload("p", checkpoint=trainer.publish(3)).raise_for_status()
    answer = rollback(server)
    assert answer.keys() == {"version", "train_step", "previous", "took_ms"}
    assert (answer["version"], answer["train_step"], answer["previous"]) == ("0000000002", 2, "0000000003")
    assert number(server) == 2
    trainer.publish(4)
    server.reload("p", checkpoint="0000000004").raise_for_status()
    shutil.rmtree(trainer.folder / "checkpoints")  # what a trainer deletes is kept for this
    assert rollback(server)["version"] == "0000000002"
    assert number(server) == 2
    refused = server.admin.post("/admin/policies/p/rollback")
    assert refused.status_code == 409
    assert "no version served before 0000000002" in refused.json()["detail"]
    assert number(server) == 2
    assert server.http.get("/v1/policies/p").json()["pinned"] == "0000000002"
    assert server.http.post("/admin/policies/p/rollback").status_code == 401
    assert server.admin.post("/admin/policies/q/rollback").status_code == 404


def test_a_rollback_and_a_pin_survive_a_kill_and_the_trainers_clean_up(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "p")
    options = ("--state-dir", str(tmp_path / "state"))
    trainer.publish(1)
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        server.reload("p", checkpoint=trainer.publish(2)).raise_for_status()
        rollback(server)
        server.stop(signal.SIGKILL)
    shutil.rmtree(trainer.folder / "checkpoints" / "0000000001")
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        assert number(server) == 1
        assert server.http.get("/v1/policies/p").json()["pinned"] == "0000000001"
        assert server.reload("p").json()["version"] == "0000000002"
        server.reload("p", checkpoint="export").raise_for_status()
        server.stop()
    with serving({"p": trainer.folder}, *options, prepared=True) as server:
        assert (number(server), server.http.get("/v1/policies/p").json()["pinned"]) == (0, "export")


def test_two_servers_may_not_share_a_state_folder(
    running: RunningServer, folder: Path, trainers: dict[str, NumberTrainer]
) -> None:
    with (
        pytest.raises(ServerFailed, match="is in use by another server"),
        serving({"p": trainers["p"].folder}, "--state-dir", str(folder / "state")),
    ):
        pass
    assert running.http.get("/livez").status_code == 200


def test_the_story_of_a_swap_is_one_line_and_a_metric(
    running: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    running.reload("story", checkpoint=trainers["story"].publish(7)).raise_for_status()
    metrics = running.http.get("/metrics").text
    for stage in ("loaded", "verified", "active", "drained"):
        assert f'policy_server_swap_stage_seconds_count{{policy="story",stage="{stage}"}} 1.0' in metrics
    until(lambda: any("0000000007" in line for line in running.lines), "the line")
    [line] = [line for line in running.lines if "0000000007" in line]
    for part in ("train step 7", "loaded in", "verified in", "active in", "export before it drained in"):
        assert part in line
