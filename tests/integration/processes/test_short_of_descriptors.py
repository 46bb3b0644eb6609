"""A process of the server that cannot open another file for a while: no checkpoint is to blame for it."""

import os
import resource
from collections.abc import Iterator

import pytest

from tests.integration.processes.test_stalled import train_step
from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving
from tests.support.steady import until

POLICY = "/v1/policies/p"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("short") / "p")


@pytest.fixture(scope="module")
def watching(trainer: NumberTrainer) -> Iterator[RunningServer]:
    with serving({"p": trainer.folder}) as server:
        yield server


def process_of(server: RunningServer, module: str) -> int:
    return server.processes(module)[0] if module else server.process.pid


@pytest.mark.parametrize("plain", [False, True], ids=["ours", "plain"])
@pytest.mark.parametrize("module", ["app.builder", "app.worker", ""], ids=["builder", "worker", "control"])
def test_checkpoint_that_could_not_be_read_for_a_while_serves_later_untouched(
    watching: RunningServer, trainer: NumberTrainer, module: str, plain: bool
) -> None:
    step = train_step(watching.http) + 1
    pid = process_of(watching, module)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    watching.admin.get("/admin/policies/p/versions").raise_for_status()  # on a connection that stays
    lines = len(watching.lines)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        name = trainer.publish(step)
        if plain:
            (trainer.folder / "checkpoints" / name / "checkpoint.json").unlink()
        reloaded = watching.reload("p", checkpoint=name)
        assert reloaded.status_code == 409, reloaded.text
        assert train_step(watching.http) == step - 1
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    until(lambda: train_step(watching.http) == step, "the version that could not be read before")
    assert processes.runs(pid)
    assert not any("Traceback" in line for line in watching.lines[lines:])


def test_pin_stays_where_the_folder_cannot_be_looked_into_for_a_while(
    watching: RunningServer, trainer: NumberTrainer
) -> None:
    name = trainer.publish(100)
    assert watching.reload("p", checkpoint=name).status_code == 200
    pid = watching.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        refused = watching.reload("p")
        assert (refused.status_code, "looked for now" in refused.text) == (409, True)
        assert os.strerror(24) in refused.text
        assert (trainer.folder / "checkpoints" / name).is_dir()
        reported = "p: the checkpoints cannot be looked for now"
        until(lambda: any(reported in line for line in watching.lines), "a scan by the watcher")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert watching.http.get(POLICY).json()["pinned"] == name
    assert train_step(watching.http) == 100
