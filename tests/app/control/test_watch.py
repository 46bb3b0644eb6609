"""Folders are watched together, and looked at by time where they cannot be watched."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.control import watch
from app.control.watch import FolderWatcher, follow

ROOT = Path(__file__).parents[3]


class Looks:
    """Stands for a manager: counts the looks."""

    name = "p"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.count = 0
        self.happened = asyncio.Event()

    async def catch_up(self) -> None:
        self.count += 1
        self.happened.set()
        if self.error is not None:
            raise self.error


@contextlib.asynccontextmanager
async def running(*coroutines):
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(test: Callable) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


async def set_by(event: asyncio.Event, act: Callable[[], object]) -> None:
    """Acts again and again until the event is set: when a watch starts is not reported."""
    event.clear()
    while not event.is_set():
        act()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.5)


def test_changes_are_reported_to_whom_they_concern(tmp_path):
    async def test() -> None:
        for name in "ab":
            (tmp_path / name / "checkpoints").mkdir(parents=True)
        watcher = FolderWatcher()
        a, b = (watcher.add([tmp_path / name]) for name in "ab")
        async with running(watcher.run()):
            await set_by(a, (tmp_path / "a" / "checkpoints" / "1").touch)
            assert not b.is_set()
            await set_by(b, (tmp_path / "b" / "2").touch)

    run(test)


def test_what_changes_beside_a_folder_concerns_nobody_and_its_appearance_does(tmp_path):
    async def test() -> None:
        watcher = FolderWatcher()
        paths: list[list[str] | None] = []
        checkpoints, train = tmp_path / "checkpoints", tmp_path / "train"
        train.mkdir()
        changed = watcher.add([checkpoints], paths.append, above=[tmp_path])
        neighbour = watcher.add([train])
        async with running(watcher.run()):
            await set_by(neighbour, (train / "events.out").touch)
            await set_by(neighbour, (train / "events.out").touch)
            assert not changed.is_set()
            await set_by(changed, lambda: checkpoints.rmdir() if checkpoints.exists() else checkpoints.mkdir())
            await set_by(changed, (checkpoints / "1").touch)
        assert [str(checkpoints)] in paths
        assert not any("train" in path for some in paths for path in some or ())

    run(test)


def test_a_change_in_a_folder_that_a_link_beside_it_leads_to_is_reported_by_the_name_of_the_link(tmp_path):
    async def test() -> None:
        (tmp_path / "real").mkdir()
        checkpoints = tmp_path / "checkpoints"
        checkpoints.symlink_to(tmp_path / "real")
        watcher = FolderWatcher()
        changed = watcher.add([checkpoints], above=[tmp_path])
        async with running(watcher.run()):
            await set_by(changed, (checkpoints / "1").touch)

    run(test)


def test_folders_that_come_later_or_again_are_watched(tmp_path):
    async def test() -> None:
        watcher = FolderWatcher()
        (tmp_path / "first").mkdir()
        first = watcher.add([tmp_path / "first"])
        async with running(watcher.run()):
            await set_by(first, (tmp_path / "first" / "1").touch)
            (tmp_path / "later").mkdir()
            later = watcher.add([tmp_path / "later", tmp_path / "not there yet"])
            await set_by(later, (tmp_path / "later" / "1").touch)
            shutil.rmtree(tmp_path / "later")
            (tmp_path / "later").mkdir()
            await set_by(later, (tmp_path / "later" / "1").touch)
            (tmp_path / "not there yet").mkdir()
            await set_by(later, (tmp_path / "not there yet" / "1").touch)

    run(test)


@pytest.mark.parametrize("odd", ["loop", "dangling", "a link upwards", "no name", "a pipe"])
def test_what_lies_below_stops_nothing(tmp_path, odd):
    async def test() -> None:
        checkpoints = tmp_path / "checkpoints"
        checkpoints.mkdir()
        make_odd(checkpoints, odd)
        watcher = FolderWatcher()
        changed = watcher.add([tmp_path, checkpoints])
        async with running(watcher.run()):
            await set_by(changed, (checkpoints / "1").touch)
            if odd == "no name":
                return  # each event of it ends the watch
            await set_by(changed, (checkpoints / "2").touch)

    run(test)


def make_odd(folder: Path, kind: str) -> None:
    if kind == "a pipe":
        os.mkfifo(folder / "pipe")
    elif kind == "no name":
        os.mkdir(os.fsencode(folder) + b"/\xff\xfe\n")
    else:
        (folder / "link").symlink_to({"loop": "link", "dangling": "nowhere", "a link upwards": ".."}[kind])


def test_everything_is_looked_at_by_time_and_a_failure_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(watch, "SCAN_ANYWAY_S", 0.02)

    async def test() -> None:
        good, bad = Looks(), Looks(RuntimeError("as it is"))
        async with running(follow(good, asyncio.Event()), follow(bad, asyncio.Event())):
            while good.count < 5 or bad.count < 5:
                await asyncio.sleep(0.01)

    run(test)
    assert [record.exc_text is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]


def test_a_change_is_looked_at_at_once(monkeypatch):
    monkeypatch.setattr(watch, "SCAN_ANYWAY_S", 3600)

    async def test() -> None:
        looks, changed = Looks(), asyncio.Event()
        async with running(follow(looks, changed)):
            for count in (1, 2):
                looks.happened.clear()
                changed.set()
                await looks.happened.wait()
                assert looks.count == count

    run(test)


def test_paths_are_reported_and_what_came_before_the_watch_is_too(tmp_path):
    async def test() -> None:
        (tmp_path / "checkpoints").mkdir()
        watcher, reported = FolderWatcher(), []
        changed = watcher.add([tmp_path], reported.append)
        async with running(watcher.run()):
            await set_by(changed, (tmp_path / "checkpoints" / "1").touch)
        assert reported[0] is None
        assert str(tmp_path / "checkpoints" / "1") in [path for paths in reported[1:] for path in paths]

    run(test)


def test_below_thousands_nothing_is_watched_and_new_ones_are_found_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "MOST_BELOW", 3)
    recursive = []

    def noting(*folders, **how):
        recursive.append(how["recursive"])
        return awatch(*folders, **how)

    awatch = watch.awatch
    monkeypatch.setattr(watch, "awatch", noting)

    async def test() -> None:
        for name in "abcd":
            (tmp_path / name).mkdir()
        watcher, reported = FolderWatcher(), []
        changed = watcher.add([tmp_path], reported.append)
        async with running(watcher.run()):
            await set_by(changed, (tmp_path / "e").touch)
        assert reported[0] == [str(tmp_path / "e")]

    run(test)
    assert recursive == [False]


# As a user of its own, who has no rights and no inotify instances left.
CHILD = """
import asyncio, ctypes, json, logging, os, sys
from pathlib import Path
from app.control.source import Source
from app.control.watch import FolderWatcher, follow
from tests.support.checkpoints import identify
from tests.app.control.test_watch import Looks, running
policy = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgid(54321)
    os.setuid(54321)
logging.basicConfig(stream=sys.stdout, format="%(message)s")
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0:
    pass
async def main():
    watcher, looks = FolderWatcher(), Looks()
    async with running(watcher.run(), follow(looks, watcher.add([policy]))):
        while looks.count < 3:
            await looks.happened.wait()
            looks.happened.clear()
asyncio.run(asyncio.wait_for(main(), 60))
scan = Source(policy, identify).scan(0.25)
print(json.dumps([[c.name for c in scan.complete], scan.unreadable, scan.others]))
"""


def test_without_rights_and_without_notifications_the_others_go_on():
    from tests.support.checkpoints import put

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        policy = Path(folder)
        for name in ("good", "locked", "half"):
            put(policy / "checkpoints", name, 1)
        (policy / "checkpoints" / "locked").chmod(0)
        (policy / "checkpoints" / "half" / "variables").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, folder], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        *log, last = done.stdout.splitlines()
        assert len(log) == 1, log
        assert "is scanned every 2 s" in log[0]
        complete, unreadable, others = json.loads(last)
        assert (complete, others) == (["good"], {})
        assert unreadable["locked"] == "it cannot be read: Permission denied"
        assert "Permission denied" in unreadable["half"]
