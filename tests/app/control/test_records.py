"""The versions that served are known for a roll-back and for a restart."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from app.artifacts.records import Pin, VersionRecord
from app.control.records import Records
from app.control.state_dir import MOST_RECORDS, StateDir
from tests.support.swapping import GRAPH, bundle

pytestmark = pytest.mark.anyio

A, B, C = (VersionRecord(name, name.upper(), step, "graph") for step, name in enumerate("abc"))


@contextmanager
def recording(folder):
    with ThreadPoolExecutor(1) as executor, StateDir(folder / "p").opened() as state_dir:
        yield Records(state_dir, executor), state_dir


async def served(records, *versions, pin=None):
    for version in versions:
        await records.save(version, pin, "graph", saved_again=False, in_use=())


def put_bundle(state_dir, record):
    folder = state_dir.place(record.digest)
    folder.mkdir()
    replace(bundle(record.name), folder=folder).write()
    return folder


async def test_what_served_is_known_in_its_order(tmp_path):
    with recording(tmp_path) as (records, _):
        assert records.before() is None
        await served(records, A)
        assert records.before() is None
        await served(records, B, B, C)
        assert records.served == [A, B, C]
        assert records.before() == B
        assert records.named("a") == A
        assert records.named("other") is None


async def test_of_one_name_the_version_that_served_last_is_meant(tmp_path):
    with recording(tmp_path) as (records, _):
        again = replace(A, digest="A2")
        await served(records, A, again, B)
        assert records.named("a") == again


async def test_a_restart_knows_what_served_and_does_not_pin_yet(tmp_path):
    with recording(tmp_path) as (records, _):
        await served(records, A, B, pin=Pin("b"))
        assert records.pin == Pin("b")
    with recording(tmp_path) as (records, _):
        saved_state = await records.load(GRAPH)
        assert (records.served, records.pin) == ([A, B], None)
        assert saved_state.pin == Pin("b")


async def test_only_the_last_ones_are_known(tmp_path):
    with recording(tmp_path) as (records, _):
        many = [VersionRecord(str(step), str(step), step) for step in range(MOST_RECORDS + 3)]
        await served(records, *many)
        assert records.served == many[3:]


async def test_the_files_of_what_is_no_longer_known_are_deleted_but_for_those_in_use(tmp_path):
    with recording(tmp_path) as (records, state_dir):
        folders = [put_bundle(state_dir, record) for record in (A, B, C)]
        await records.save(A, None, "graph", saved_again=False, in_use=["C"])
        assert [folder.exists() for folder in folders] == [True, False, True]


async def test_a_roll_back_leads_on_to_what_served_before_that(tmp_path):
    with recording(tmp_path) as (records, _):
        await served(records, A, B, C)
        records.roll_back()
        await served(records, B)
        assert records.served == [A, B]
        assert records.before() == A


async def test_for_another_graph_only_the_last_checkpoint_is_kept(tmp_path):
    with recording(tmp_path) as (records, _):
        await served(records, A, B)
        records.replace_graph("other")
        assert records.served == [replace(B, graph="other")]
        await served(records, VersionRecord("export", "other", 9, "other"))
        records.replace_graph("third")
        assert records.served == []


async def test_what_may_be_deleted_for_room_is_the_oldest_that_the_active_one_does_not_need(tmp_path):
    with recording(tmp_path) as (records, state_dir):
        copy = replace(A, name="copy")
        await served(records, A, B, copy)
        folder = put_bundle(state_dir, B)
        assert records.spare() == B
        await records.forget(B)
        assert not folder.exists()
        assert records.served == [A, copy]
        assert records.spare() is None


async def test_a_version_has_the_graph_that_it_served_with_while_that_is_there(tmp_path):
    with recording(tmp_path) as (records, state_dir):
        folder = state_dir.graphs / "before"
        folder.mkdir(parents=True)
        before = replace(GRAPH, folder=folder, digest="before")
        before.write()
        assert await records.graph_of(A, GRAPH) is GRAPH
        assert await records.graph_of(replace(A, graph=""), GRAPH) is GRAPH
        assert await records.graph_of(replace(A, graph="gone"), GRAPH) is GRAPH
        assert (await records.graph_of(replace(A, graph="before"), GRAPH)).digest == "before"


async def test_the_event_loop_goes_on_while_the_disk_is_slow(tmp_path):
    with recording(tmp_path) as (records, state_dir):
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()
        save = state_dir.save

        def slow(*arguments):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)  # the loop has to run for this
            loop.call_soon_threadsafe(reached.set)
            save(*arguments)

        state_dir.save = slow
        await served(records, A)
        await reached.wait()
