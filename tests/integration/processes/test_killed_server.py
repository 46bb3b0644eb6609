"""A server killed in the middle of swaps, and one whose state folder has no room: what serves is always right.

After a restart with the same --state-dir the server comes back by itself to what an operator or the trainer wanted,
and nothing half-written is left or taken for a version.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.artifacts.bundle import Bundle, Graph
from tests.support import processes
from tests.support.policies import NumberTrainer
from tests.support.server import ADMIN_TOKEN, RunningServer, serving
from tests.support.steady import SteadyLoad, until

FILLER = 200_000


@contextlib.contextmanager
def started(trainer: NumberTrainer, state: Path, *options: str) -> Iterator[RunningServer]:
    with serving({"p": trainer.folder}, "--state-dir", str(state), *options, prepared=True) as server:
        yield server


def kill(server: RunningServer, moment: Callable[[], object] = lambda: None) -> None:
    """No chance to tidy up, when `moment` returns. What it has started may not outlive it: it would hold the folder."""
    pids = [server.process.pid, *server.processes()]
    moment()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    until(lambda: not any(processes.state(pid) for pid in pids), "the end of every process of the server")


def serves(server: RunningServer) -> int:
    answer = server.http.post("/action", json={"observation": [7, 0, 0, 0]}).raise_for_status().json()
    assert answer["action"] == [1000 * answer["train_step"] + 7] * 2
    return int(answer["train_step"])


def pinned(server: RunningServer) -> str | None:
    return server.http.get("/v1/policies/p").raise_for_status().json()["pinned"]


def litter(state: Path) -> list[Path]:
    """Hidden names are those of files and folders that are being written."""
    found = [(at, name) for at, folders, files in os.walk(state) for name in folders + files]
    return [Path(at, name) for at, name in found if name.startswith(".")]


def check_copies(state: Path) -> None:
    """Everything that a restart would run from is whole, but for what is just being written."""
    for kind, read in (("versions", Bundle.read), ("graphs", Graph.read)):
        for folder in state.glob(f"p/{kind}/[!.]*"):
            assert read(folder) is not None or not folder.exists(), folder


def follow(server: RunningServer, train_step: int) -> None:
    until(lambda: serves(server) >= train_step, f"{train_step} serving")


@contextlib.contextmanager
def beside(job: Callable[[], object]) -> Iterator[None]:
    """Runs `job` in a thread meanwhile; a server that is killed ends it."""

    def run() -> None:
        with contextlib.suppress(httpx.HTTPError):
            job()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("original") / "p", filler=FILLER)


@pytest.fixture
def trainer(original: NumberTrainer, tmp_path: Path) -> NumberTrainer:
    return original.copied(tmp_path / "p")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_killed_while_it_follows_a_trainer_it_comes_back_to_the_newest(
    trainer: NumberTrainer, state: Path, full: bool
) -> None:
    draw, newest = random.Random(1306), 0
    for _ in range(20 if full else 2):
        with started(trainer, state) as server:
            assert serves(server) == newest
            check_copies(state)
            goal = newest + draw.randrange(2, 6)
            while newest < goal:
                newest += 1
                trainer.publish(newest)
                follow(server, newest - 1)
            time.sleep(draw.uniform(0, 0.08))  # the last one is found, loaded, verified, or being copied
            kill(server)
    with started(trainer, state) as server:
        assert (serves(server), pinned(server)) == (newest, None)
        check_copies(state)


@pytest.mark.parametrize("wish", [pytest.param("pinned", marks=pytest.mark.only_full), "rolled back"])
def test_killed_during_a_reload_it_comes_back_to_what_was_wished_or_to_what_is(
    trainer: NumberTrainer, state: Path, wish: str, full: bool
) -> None:
    """The reload counts or not; what is wrong is a third thing. What was answered with 200 counts in any case."""
    draw, came_back = random.Random(wish), []
    names = {step: trainer.publish(step) for step in range(1, 5)}
    for _ in range(15 if full else 2):
        with started(trainer, state) as server:
            assert (serves(server), pinned(server)) == (4, None)
            for step in (1, 2) if wish == "rolled back" else (2, 1):
                server.reload("p", checkpoint=names[step]).raise_for_status()
            if wish == "rolled back":
                server.admin.post("/admin/policies/p/rollback").raise_for_status()
            assert (serves(server), pinned(server)) == (1, names[1])
            with beside(lambda server=server: server.reload("p", checkpoint=names[3])):
                time.sleep(draw.uniform(0, 0.06))
                kill(server)
        if wish == "rolled back":
            shutil.rmtree(trainer.folder / "checkpoints" / names[1])
        with started(trainer, state) as server:
            came_back.append(serves(server))
            assert came_back[-1] in (1, 3)
            assert pinned(server) == names[came_back[-1]]
            check_copies(state)
            assert server.reload("p").json()["train_step"] == 4
            kill(server)
        trainer.publish(1)
    print(f"{wish}: came back to {came_back}")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2, id="what served last", marks=pytest.mark.only_full),
        pytest.param(3, id="a copy of new weights"),
    ],
)
def test_killed_while_it_writes_into_its_state_folder_it_tidies_up_at_the_next_start(
    trainer: NumberTrainer, state: Path, step: int
) -> None:
    names = {step: trainer.publish(step) for step in (1, 2, 3)}
    with started(trainer, state, "--no-watch") as server:
        for known in (2, 1):
            server.reload("p", checkpoint=names[known]).raise_for_status()
        until(lambda: not litter(state), "the copies being finished")
        caught = catch(server, state, lambda: server.reload("p", checkpoint=names[step]))
    if not caught:
        pytest.skip("it writes faster than can be seen")
    with started(trainer, state, "--no-watch") as server:
        assert serves(server) in (1, step)
        assert litter(state) == []


def catch(server: RunningServer, state: Path, job: Callable[[], object]) -> list[Path]:
    """Kills the server as soon as a hidden file or folder is there that it writes; returns which."""
    caught: list[Path] = []
    deadline = time.monotonic() + 5

    def seen() -> None:
        while not caught and time.monotonic() < deadline:
            caught.extend(litter(state))

    with beside(job):
        kill(server, seen)
    return [path for path in caught if path.exists()]


# Uploads


def tar_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(folder, ".")
    return out.getvalue()


def begin_upload(server: RunningServer, name: str, body: bytes) -> socket.socket:
    """Sends half of it."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), 20)
    start = f"PUT /admin/policies/p/checkpoints/{name}?activate=true HTTP/1.1\r\nHost: x\r\n"
    how = f"Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((start + how).encode() + body[: len(body) // 2])
    return connection


@dataclass(frozen=True)
class After:
    """What a server reports and has after it was killed in the middle of an upload."""

    serves: int
    pinned: str | None
    versions: list[str]
    reload_status: int
    litter: list[Path]


@pytest.fixture(scope="module")
def after_killed_upload(original: NumberTrainer, tmp_path_factory: pytest.TempPathFactory) -> After:
    """The policy's own folder cannot be written, so that uploads go to the state folder."""
    folder = tmp_path_factory.mktemp("killed")
    trainer, state = original.copied(folder / "p"), folder / "state"
    (trainer.folder / "checkpoints").write_text("in the way of the folder, also for root")
    whole, half = (tar_of(folder / trainer.publish(step, None, folder)) for step in (1, 2))
    with started(trainer, state) as server:
        put = server.admin.put("/admin/policies/p/checkpoints/whole?activate=true", content=whole)
        assert put.status_code == 200, put.text
        there = set(state.rglob("*"))
        with begin_upload(server, "half", half):
            until(lambda: set(state.rglob("*")) - there, "the upload being written")
            kill(server)
    with started(trainer, state) as server:
        versions = server.admin.get("/admin/policies/p/versions").json()["versions"]
        return After(
            serves(server),
            pinned(server),
            [version["version"] for version in versions],
            server.reload("p", checkpoint="half").status_code,
            litter(state),
        )


def test_killed_during_an_upload_it_takes_no_half_of_it(after_killed_upload: After) -> None:
    assert (after_killed_upload.serves, after_killed_upload.pinned) == (1, "whole")
    assert "half" not in after_killed_upload.versions
    assert after_killed_upload.reload_status == 404


def test_killed_during_an_upload_it_tidies_up_at_the_next_start(after_killed_upload: After) -> None:
    assert after_killed_upload.litter == []


# No room


class Tmpfs:
    """A small disk of its own, filled with one large file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, server: RunningServer) -> None:
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(self.folder).free == 0

    def free(self, server: RunningServer) -> None:
        self._ballast.unlink()


class NoLargeFiles:
    """No process of the server can write more than a few bytes to any file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: RunningServer) -> None:
        self._limit(server, 64)

    def free(self, server: RunningServer) -> None:
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: RunningServer, most_bytes: int) -> None:
        for pid in (server.process.pid, *server.processes()):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, hard))


Disk = Tmpfs | NoLargeFiles


@pytest.fixture(params=["tmpfs", "no large files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "no large files":
        yield NoLargeFiles(folder)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    try:
        yield Tmpfs(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_memory_of_the_past_and_no_answer(trainer: NumberTrainer, disk: Disk) -> None:
    good = {"export": 0} | {f"{step:010d}": step for step in range(1, 9)}
    state = disk.folder / "state"
    trainer.publish(1)
    with (
        started(trainer, state) as server,
        SteadyLoad(server.url, "p", good) as load,
    ):
        disk.fill(server)
        before = 1
        for step in (2, 3):
            before = check_swap_without_room(server, trainer, step, before)
        rolled = server.admin.post("/admin/policies/p/rollback")
        assert rolled.status_code in (200, 409), rolled.text
        disk.free(server)
        assert server.reload("p", checkpoint=trainer.publish(4)).json()["train_step"] == 4
        assert serves(server) == 4
        load.more(20)
        assert load.new_failures() == []
        kill(server)
    assert not any("Traceback" in line for line in server.lines)
    with started(trainer, state) as server:
        assert (serves(server), pinned(server)) == (4, "0000000004")
        check_copies(state)


def check_swap_without_room(server: RunningServer, trainer: NumberTrainer, step: int, before: int) -> int:
    """It is made, or refused with a reason and nothing has changed; returns what serves."""
    response = server.reload("p", checkpoint=trainer.publish(step))
    if response.status_code == 409:
        assert any(word in response.json()["detail"] for word in ("No space left", "too large"))
        assert serves(server) == before
        return before
    assert response.status_code == 200, response.text
    assert serves(server) == step
    return step


def test_an_upload_to_a_full_disk_is_refused_and_says_so(trainer: NumberTrainer, disk: Disk, tmp_path: Path) -> None:
    (trainer.folder / "checkpoints").write_text("in the way of the folder, also for root")
    body = tar_of(tmp_path / trainer.publish(1, None, tmp_path))
    state, path = disk.folder / "state", "/admin/policies/p/checkpoints/sent?activate=true"
    with started(trainer, state) as server, SteadyLoad(server.url, "p", {"export": 0, "sent": 1}) as load:
        disk.fill(server)
        response = server.admin.put(path, content=body)
        assert response.status_code == 409, response.text
        assert any(word in response.json()["detail"] for word in ("No space left", "too large"))
        assert serves(server) == 0
        check_copies(state)
        disk.free(server)
        assert server.admin.put(path, content=body).status_code == 200
        assert serves(server) == 1
        load.more(20)
        assert load.new_failures() == []
