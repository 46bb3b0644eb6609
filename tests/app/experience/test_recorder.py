"""The recorder without its processes: rows as they come, readers that wait, and a folder that cannot be used."""

import asyncio
import contextlib
import errno
import itertools
import logging
import queue
from collections.abc import AsyncIterator

import pytest

from app.errors import DoesNotFit, NotReady, Overloaded
from app.experience import recorder as module
from app.experience.query import Query
from app.experience.recorder import Recorder, niceness
from app.experience.schema import columns_of
from app.rpc.messages import RecorderSettings
from app.wire import json_body, msgpack_body
from tests.support.experience import Simulator, rows_of
from tests.support.specs import policy_spec

SPEC = policy_spec()
NAMES = (f"p{number}" for number in itertools.count())


class FakeFollower:
    """Appends what it is given, or raises it."""

    def __init__(self, folder, spec, log, kept_bytes):
        self.log = log
        self.lost_events = self.journal_bytes = 0

    def advance(self):
        try:
            given = WAITING[self.log.folder.name].get_nowait()
        except queue.Empty:
            return 0
        if isinstance(given, OSError):
            raise given
        self.log.append(rows_of(columns_of(SPEC), given), {})
        return len(given)


WAITING: dict[str, queue.Queue] = {}


@contextlib.asynccontextmanager
async def recording(folder) -> AsyncIterator[tuple[Recorder, str]]:
    """A recorder with one policy, of a name that no other test has: metrics count by it."""
    name = next(NAMES)
    WAITING[name] = queue.Queue()
    recorder = Recorder(FakeFollower)
    try:
        await recorder.open(RecorderSettings(folder, 2**30, 2**20, 60, 1))
        await recorder.open_policy(name, SPEC)
        while not recorder._recordings[name].was_tried:
            await recorder.alive()
        yield recorder, name
    finally:
        await asyncio.to_thread(recorder.stop)


def append(name, count=1, simulator=None):
    simulator = simulator or Simulator()
    WAITING[name].put([simulator.next() for _ in range(count)])


async def read(recorder, policy, **query):
    return json_body.decode(await recorder.read(policy, Query(**query)))


@pytest.mark.anyio
async def test_rows_are_answered_as_they_come_to_readers_that_wait(tmp_path):
    async with recording(tmp_path) as (recorder, name):
        first = await read(recorder, name)
        assert (first["rows"], first["columns"]) == (0, {})
        waiting = [
            asyncio.create_task(read(recorder, name, wait_ms=50_000, cursor=cursor))
            for cursor in (first["cursor"], "end")
        ]
        while recorder.waiting < 2:
            await asyncio.sleep(0.001)
        simulator = Simulator()
        append(name, 3, simulator)
        answers = await asyncio.gather(*waiting)
        assert [answer["columns"]["step"] for answer in answers] == [[1, 2, 3]] * 2
        append(name, 1, simulator)
        later = await read(recorder, name, wait_ms=50_000, cursor=answers[0]["cursor"])
        assert later["columns"]["step"] == [4]
        packed = msgpack_body.decode(await recorder.read(name, Query(as_msgpack=True)))
        assert packed["columns"]["observation"].shape[0] == 4


@pytest.mark.anyio
async def test_a_reader_waits_no_longer_than_it_said_and_rows_that_it_does_not_want_do_not_end_that(tmp_path):
    async with recording(tmp_path) as (recorder, name):
        waiting = asyncio.create_task(read(recorder, name, wait_ms=300, least_train_step=5))
        append(name, 2)
        answer = await waiting
        assert answer["rows"] == 0
        append(name, 2, Simulator("t", train_step=5))
        answer = await read(recorder, name, wait_ms=50_000, cursor=answer["cursor"], least_train_step=5)
        assert answer["columns"]["session"] == ["t", "t"]


@pytest.mark.anyio
async def test_readers_that_wait_are_bounded_and_one_that_goes_away_leaves_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    async with recording(tmp_path) as (recorder, name):
        waiting = [asyncio.create_task(recorder.read(name, Query(wait_ms=50_000))) for _ in range(2)]
        while recorder.waiting < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="2 readers wait"):
            await recorder.read(name, Query(wait_ms=50_000))
        assert (await read(recorder, name))["rows"] == 0  # this one does not wait
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert recorder.waiting == 0


@pytest.mark.anyio
async def test_what_cannot_be_read_is_refused(tmp_path):
    async with recording(tmp_path / "a") as (recorder, name):
        append(name)
        cursor = (await read(recorder, name, wait_ms=50_000))["cursor"]
        with pytest.raises(NotReady):
            await recorder.read("other", Query())
    async with recording(tmp_path / "b") as (recorder, name):
        with pytest.raises(DoesNotFit, match="of another policy, or of experience that is gone"):
            await recorder.read(name, Query(cursor=cursor))


@pytest.mark.anyio
async def test_a_disk_that_is_full_is_logged_once_and_recording_goes_on(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("app.experience.recording._AGAIN_S", 0.0)
    caplog.set_level(logging.WARNING, "policy_server")
    async with recording(tmp_path) as (recorder, name):
        for _ in range(3):
            WAITING[name].put(OSError(errno.ENOSPC, "No space left on device"))
        append(name)
        assert (await read(recorder, name, wait_ms=50_000))["rows"] == 1
        await recorder.alive()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"{name}: experience is not recorded: [Errno 28] No space left on device; answers go on",
        f"{name}: experience is recorded again",
    ]


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_used_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("app.experience.recording._AGAIN_S", 0.0)
    folder = tmp_path / "experience"
    folder.write_text("a file stands there")
    async with recording(folder) as (recorder, name):
        append(name, 2)
        with pytest.raises(NotReady, match=r"cannot be kept now: .*Not a directory"):
            await read(recorder, name)
        folder.unlink()
        for _ in range(2):
            await recorder.alive()
        assert (await read(recorder, name, wait_ms=50_000))["rows"] == 2


@pytest.mark.anyio
async def test_figures_count_rows_bytes_readers_and_how_far_behind_they_are(tmp_path):
    async with recording(tmp_path) as (recorder, name):
        append(name, 10)
        await read(recorder, name, wait_ms=50_000, max_rows=4)
        await read(recorder, name, cursor="end")
        (figures,) = (await recorder.figures()).values()
        assert (figures.rows, figures.behind, figures.removed_rows) == (10, [6, 0], 0)
        assert figures.size == sum(path.stat().st_size for path in (tmp_path / name).glob("*.arrows"))


@pytest.mark.anyio
async def test_a_second_server_in_the_same_folder_records_nothing(tmp_path, caplog):
    async with recording(tmp_path) as (_, name), recording(tmp_path) as (other, _):
        await other.open_policy(name, SPEC)
        with pytest.raises(NotReady, match=f"{tmp_path / name} is used by another server"):
            await read(other, name)
    assert f"{tmp_path / name} is used by another server" in caplog.text


def test_it_gives_way_to_everything_unless_it_falls_behind_or_somebody_reads() -> None:
    seen, now = [], 0
    for rows in (0, 100, 5000, 2000, 100, 2000):
        now = niceness(rows, now, is_read=False)
        seen.append(now)
    assert seen == [19, 19, 5, 5, 19, 19]
    assert niceness(0, 19, is_read=True) == 5
