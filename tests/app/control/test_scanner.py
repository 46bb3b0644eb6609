"""What a scan finds is recorded in the history; a reload learns whether what it wants is still being written."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.control import scanner as scanner_module
from app.control.history import History
from app.control.plan import Candidate
from app.control.scanner import Scanner
from app.control.source import Scan
from app.control.states import State
from app.errors import SwapRefused
from app.metrics import Metrics
from tests.support.swapping import GRAPH

pytestmark = pytest.mark.anyio


class Checkpoints:
    """A source that finds what the test says. `asked` has the arguments of each scan."""

    def __init__(self):
        self.found = Scan()
        self.error = None
        self.asked = []
        self.reported = []

    def changed(self, paths):
        self.reported.append(paths)

    def scan(self, rest_s, afresh, only):
        self.asked.append((rest_s, afresh, only))
        if self.error is not None:
            raise self.error
        return self.found


class Export:
    """An export's folder that is in the state that the test says."""

    def __init__(self):
        self.fresh = None
        self.reason = ""
        self.still_changing = False
        self.error = None
        self.asked = []

    async def scan(self, rest_s, afresh):
        self.asked.append(afresh)
        if self.error is not None:
            self.reason = str(self.error)
            raise self.error
        return self.still_changing


class Scenario:
    def __init__(self):
        self.checkpoints, self.export = Checkpoints(), Export()
        self.history = History("p", Metrics().policy("p"))
        self.executor = ThreadPoolExecutor(1)
        self.scanner = Scanner(self.checkpoints, self.export, self.history, self.executor)

    @property
    def states(self):
        return {version.name: version.state for version in self.history.all()}


@pytest.fixture
def scenario():
    scenario = Scenario()
    yield scenario
    scenario.executor.shutdown()


def candidate(name):
    return Candidate(name, None, name.upper(), 1)


async def test_what_a_scan_finds_is_in_the_history(scenario):
    scenario.checkpoints.found = Scan([candidate("a")], unreadable={"bad": "its index is damaged"})
    assert await scenario.scanner.scan(afresh=True, only={"a"}) is scenario.checkpoints.found
    assert scenario.states == {"a": State.FOUND, "bad": State.REFUSED}
    assert scenario.checkpoints.asked == [(scanner_module.REST_S, True, {"a"})]


async def test_a_folder_that_cannot_be_listed_is_refused_for_now(scenario):
    scenario.checkpoints.error = OSError(24, "Too many open files")
    with pytest.raises(SwapRefused, match="the checkpoints cannot be looked for now: Too many open files") as caught:
        await scenario.scanner.scan()
    assert caught.value.for_now


async def test_an_export_that_was_saved_again_is_in_the_history_and_no_scan_forgets_it(scenario):
    scenario.export.fresh = replace(GRAPH, digest="fresh", train_step=7)
    assert not await scenario.scanner.scan_export()
    await scenario.scanner.scan()
    [version] = scenario.history.all()
    assert (version.key, version.train_step) == (("export", "fresh"), 7)


async def test_an_export_that_may_not_serve_is_shown_as_refused_until_it_is_mended(scenario):
    scenario.export.error = SwapRefused("it has other specs")
    assert not await scenario.scanner.scan_export(afresh=True)
    assert scenario.export.asked == [True]
    assert [(v.state, v.reason) for v in scenario.history.all()] == [(State.REFUSED, "it has other specs")]
    scenario.export.error = None
    await scenario.scanner.scan_export()  # it is still the one that was refused
    assert scenario.states == {"export": State.REFUSED}
    scenario.export.reason, scenario.export.still_changing = "", True
    assert await scenario.scanner.scan_export()
    assert scenario.states == {"export": State.REFUSED}
    scenario.export.still_changing = False
    await scenario.scanner.scan_export()
    assert scenario.states == {}


async def test_a_reload_by_name_waits_for_that_one_alone(scenario):
    scenario.checkpoints.found = Scan(still_changing={"b"})
    assert await scenario.scanner.scan_for("a", afresh=False) == (scenario.checkpoints.found, False)
    assert await scenario.scanner.scan_for("b", afresh=False) == (scenario.checkpoints.found, True)
    assert [asked[1:] for asked in scenario.checkpoints.asked] == [(False, {"a"}), (False, {"b"})]
    assert scenario.export.asked == []


@pytest.mark.parametrize("changing", ["none", "checkpoint", "export"])
async def test_a_reload_of_the_newest_waits_for_whatever_is_being_written(scenario, changing):
    scenario.checkpoints.found = Scan(still_changing={"b"} if changing == "checkpoint" else set())
    scenario.export.still_changing = changing == "export"
    assert (await scenario.scanner.scan_for(None, afresh=False))[1] == (changing != "none")
    assert scenario.checkpoints.asked[0][2] == set()
    assert scenario.export.asked == [False]


async def test_the_first_scan_of_a_reload_reads_everything_afresh(scenario):
    for name in ("a", None):
        await scenario.scanner.scan_for(name, afresh=True)
    assert [asked[1:] for asked in scenario.checkpoints.asked] == [(True, None)] * 2
    assert scenario.export.asked == [True]


async def test_a_change_ends_the_wait_and_is_read_by_the_next_scan(scenario, monkeypatch):
    monkeypatch.setattr(scanner_module, "REST_S", 1e6)
    waiting = asyncio.create_task(scenario.scanner.changed_or_rested())
    await asyncio.sleep(0)
    assert not waiting.done()
    scenario.scanner.changed(["checkpoints/a"])
    await waiting
    assert scenario.checkpoints.reported == [["checkpoints/a"]]
    await scenario.scanner.scan()
    waiting = asyncio.create_task(scenario.scanner.changed_or_rested())
    await asyncio.sleep(0)
    assert not waiting.done()  # what was read is no change any more
    waiting.cancel()


async def test_what_nobody_reports_is_looked_at_again_after_a_rest(scenario, monkeypatch):
    monkeypatch.setattr(scanner_module, "REST_S", 0.0)
    await scenario.scanner.changed_or_rested()
