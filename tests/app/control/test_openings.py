"""One policy that cannot be opened does not keep the others from serving, and is tried again when it changes."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace

import pytest

from app.control import openings as openings_module
from app.control.openings import Openings, RunningWorkers
from app.control.progress import Progress
from app.errors import LinkLost, SwapRefused, UnusablePolicy
from app.metrics import Metrics
from app.settings import PolicyFolder, SettingsError
from tests.support.swapping import GRAPH, bundle

pytestmark = pytest.mark.anyio


class Lines(Progress):
    """What is reported, without a log."""

    def __init__(self):
        self.failures = {}

    def failed(self, policy, reason):
        self.failures[policy] = reason


class Scenario:
    """Policies in a folder, and what opening each of them raises."""

    def __init__(self, tmp_path, *names):
        self.errors = {}
        self.closed = []
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "saved_model.pb").write_text(name)
        self.lines = Lines()
        self.openings = Openings([PolicyFolder(n, tmp_path / n) for n in names], Metrics(), self.lines)

    async def open_one(self, named, stack):
        stack.callback(self.closed.append, named.name)
        if named.name in self.errors:
            raise self.errors[named.name]
        return Manager(named.name)


class Manager:
    """One that serves one version, and admits whom it is asked to."""

    def __init__(self, name):
        self.active = SimpleNamespace(name=name, engine="fake", key=(name, name.upper()))
        self.admission = self
        self.admitted = []

    @contextmanager
    def offered(self):
        yield self.active, GRAPH, bundle(self.active.name)

    async def admit(self, worker, key):
        self.admitted.append(key)


async def test_each_policy_is_open_until_the_stack_closes(tmp_path):
    scenario = Scenario(tmp_path, "a", "b")
    async with AsyncExitStack() as stack:
        await scenario.openings.open_all(scenario.open_one, stack)
        assert list(scenario.openings.managers) == ["a", "b"]
        assert (scenario.openings.failures, scenario.closed) == ({}, [])
    assert scenario.closed == ["b", "a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnusablePolicy("it has no action"), "{folder}: it has no action"),
        (UnusablePolicy("{folder} is no export"), "{folder} is no export"),
        (SettingsError("--engine is unknown"), "--engine is unknown"),
        (KeyError("specs"), "{folder} cannot be opened: KeyError: 'specs'"),
        (UnusablePolicy("a\udcff is no file"), "{folder}: a\\udcff is no file"),
        (OSError("b\udcfe"), "{folder} cannot be opened: OSError: b\\udcfe"),
    ],
)
async def test_one_that_fails_has_its_reason_and_the_others_serve(tmp_path, error, reason):
    scenario = Scenario(tmp_path, "a", "b")
    folder = str(tmp_path / "a")
    if "{folder}" in str(error):
        error = UnusablePolicy(str(error).format(folder=folder))
    scenario.errors["a"] = error
    async with AsyncExitStack() as stack:
        await scenario.openings.open_all(scenario.open_one, stack)
        assert scenario.openings.failures == scenario.lines.failures == {"a": reason.format(folder=folder)}
        assert list(scenario.openings.managers) == ["b"]
        assert scenario.closed == ["a"]  # what it had opened by then


async def test_when_none_can_be_opened_the_reasons_are_the_error(tmp_path):
    scenario = Scenario(tmp_path, "a", "b")
    scenario.errors = {name: SettingsError(f"no {name}") for name in "ab"}
    async with AsyncExitStack() as stack:
        with pytest.raises(UnusablePolicy, match="none of 2 policies can be served: a: no a; b: no b"):
            await scenario.openings.open_all(scenario.open_one, stack)


async def test_the_reason_of_the_only_policy_is_the_error_itself(tmp_path):
    scenario = Scenario(tmp_path, "a")
    scenario.errors = {"a": SettingsError("no a")}
    async with AsyncExitStack() as stack:
        with pytest.raises(UnusablePolicy, match=r"^no a$"):
            await scenario.openings.open_all(scenario.open_one, stack)
    assert scenario.lines.failures == {}


async def test_a_mistyped_folder_is_found_at_once_and_not_opened(tmp_path):
    scenario = Scenario(tmp_path, "a", "b")
    (tmp_path / "a" / "saved_model.pb").unlink()
    scenario.openings.check_at_once()
    assert list(scenario.openings.failures) == ["a"]
    scenario.errors["a"] = AssertionError("it is not to be opened")
    async with AsyncExitStack() as stack:
        await scenario.openings.open_all(scenario.open_one, stack)
    assert scenario.closed == ["b"]


async def test_when_every_folder_is_mistyped_it_ends_at_once(tmp_path):
    scenario = Scenario(tmp_path, "a")
    (tmp_path / "a" / "saved_model.pb").unlink()
    with pytest.raises(UnusablePolicy, match=r"saved_model.pb is missing"):
        scenario.openings.check_at_once()


@asynccontextmanager
async def trying(scenario, monkeypatch):
    """Policies that failed are tried again; yields a queue of those that were."""
    monkeypatch.setattr(openings_module, "_LOOK_EVERY_S", 0.001)
    tried = asyncio.Queue()
    async with AsyncExitStack() as stack:
        await scenario.openings.open_all(scenario.open_one, stack)
        task = asyncio.create_task(scenario.openings.try_again(scenario.open_one, stack, tried.put))
        try:
            yield tried
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_one_that_failed_is_opened_when_its_folder_has_changed(tmp_path, monkeypatch):
    scenario = Scenario(tmp_path, "a", "b")
    scenario.errors["a"] = SettingsError("no a")
    async with trying(scenario, monkeypatch) as tried:
        del scenario.errors["a"]
        (tmp_path / "a" / "saved_model.pb").write_text("mended")
        assert (await asyncio.wait_for(tried.get(), 10)).name == "a"
        assert scenario.openings.failures == {}
        assert scenario.openings.opened["a"].folder == tmp_path / "a"


async def test_one_whose_folder_has_not_changed_is_not_tried_again(tmp_path, monkeypatch):
    scenario = Scenario(tmp_path, "a", "b", "c")
    scenario.errors = {name: SettingsError(f"no {name}") for name in "ab"}
    async with trying(scenario, monkeypatch) as tried:
        (tmp_path / "b" / "saved_model.pb").write_text("mended")  # it comes after `a` in every round
        assert (await asyncio.wait_for(tried.get(), 10)).name == "b"
        assert scenario.closed.count("a") == 1
        assert tried.empty()


async def test_a_bug_with_one_does_not_end_the_trying_of_the_others(tmp_path, monkeypatch):
    scenario = Scenario(tmp_path, "a", "b", "c")
    scenario.errors = {name: SettingsError(f"no {name}") for name in "ab"}
    async with trying(scenario, monkeypatch) as tried:
        failed = []

        def fail_once(name):
            if name == "a" and not failed:
                failed.append(name)
                raise RuntimeError("a bug")

        scenario.lines.opens = lambda name, _: fail_once(name)
        for name in "ab":
            (tmp_path / name / "saved_model.pb").write_text("mended")
        assert (await asyncio.wait_for(tried.get(), 10)).name == "b"
        assert failed == ["a"]


class Worker:
    """A worker's process. `errors`: what a call raises."""

    is_gone = False

    def __init__(self):
        self.did = []
        self.errors = {}
        self.before_answer = {}

    async def call(self, name, *arguments):
        self.did.append((name, *arguments[:1]))
        if name in self.before_answer:
            self.before_answer.pop(name)()
        if name in self.errors:
            raise self.errors[name]


async def opened(tmp_path, *names):
    scenario = Scenario(tmp_path, *names)
    async with AsyncExitStack() as stack:
        await scenario.openings.open_all(scenario.open_one, stack)
    return scenario, RunningWorkers(scenario.openings)


async def test_a_worker_listens_when_it_has_loaded_all_that_serves(tmp_path):
    scenario, running = await opened(tmp_path, "a", "b")
    worker = Worker()
    await running.start(worker, "settings")
    assert worker.did == [("open", "settings"), ("open_policy", "a"), ("open_policy", "b"), ("fail", {}), ("listen",)]
    assert scenario.openings.managers["a"].admitted == [("a", "A")]


async def test_a_policy_that_is_opened_while_a_worker_starts_is_loaded_too(tmp_path):
    scenario, running = await opened(tmp_path, "a", "b")
    late = scenario.openings.managers.pop("b")
    worker = Worker()
    worker.before_answer["open_policy"] = lambda: scenario.openings.managers.update(b=late)
    await running.start(worker)
    assert [call for call in worker.did if call[0] == "open_policy"] == [("open_policy", "a"), ("open_policy", "b")]
    assert worker.did[-1] == ("listen",)


async def test_running_workers_are_notified_of_what_is_open_now_and_what_is_not(tmp_path):
    scenario, running = await opened(tmp_path, "a")
    worker = Worker()
    await running.start(worker)
    worker.did.clear()
    scenario.openings.failures["b"] = "no b"
    await running.notify("b")
    assert worker.did == [("fail", {"b": "no b"})]
    await running.notify("a")
    assert worker.did[1:] == [("open_policy", "a"), ("fail", {"b": "no b"})]


async def test_a_worker_that_is_gone_is_not_notified_again_and_one_that_cannot_load_is(tmp_path):
    _, running = await opened(tmp_path, "a")
    gone, full, good = Worker(), Worker(), Worker()
    for worker in (gone, full, good):
        await running.start(worker)
    gone.errors["open_policy"] = LinkLost("gone")
    full.errors["open_policy"] = SwapRefused("no memory")
    await running.notify("a")
    assert full.did[-1] == ("fail", {"a": "this worker cannot load it: no memory"})
    assert good.did[-1] == ("fail", {})
    calls = [len(worker.did) for worker in (gone, full, good)]
    await running.notify("a")
    assert [len(worker.did) - before for worker, before in zip((gone, full, good), calls, strict=True)] == [0, 2, 2]


async def test_workers_that_are_gone_are_forgotten_when_their_successors_start(tmp_path):
    """Or a server whose workers crash now and then would keep, and ask, more and more of them."""
    _, running = await opened(tmp_path, "a")
    for _ in range(3):
        crashing = Worker()
        await running.start(crashing)
        crashing.is_gone = True
    await running.start(Worker())
    assert running.count == 1


class Asked(Worker):
    """One that counts from zero with each answer, which it gives when it is let."""

    def __init__(self):
        super().__init__()
        self.link = self
        self.count = 0
        self.lets = asyncio.Event()

    async def call(self, name, *arguments):
        await super().call(name, *arguments)
        if name != "figures":
            return None
        await self.lets.wait()
        count, self.count = self.count, 0
        return count


@pytest.fixture
async def two(tmp_path, monkeypatch):
    """Workers that run, where nobody is waited for for long; and two of them."""
    monkeypatch.setattr(openings_module, "_SOON_S", 0.01)
    _, running = await opened(tmp_path, "a")
    one, other = Asked(), Asked()
    for worker in (one, other):
        await running.start(worker)
    return running, one, other


async def test_what_a_worker_counted_is_returned_though_it_answers_late(two):
    running, late, other = two
    late.count, other.count = 7, 3
    other.lets.set()
    assert await running.figures(False) == [3]
    other.count = 4
    late.lets.set()
    assert sorted(await running.figures(False)) == [4, 7]
    assert late.did.count(("figures", False)) == 1
    assert await running.figures(False) == [0, 0]


async def test_figures_of_a_worker_that_has_ended_are_asked_for_no_more(two):
    running, gone, good = two
    good.lets.set()
    gone.errors["figures"] = LinkLost("gone")
    assert await running.figures(True) == [0]
    assert (await running.figures(True), running.count) == ([0], 1)
    assert gone.did.count(("figures", True)) == 1


async def test_all_workers_hear_it_and_those_that_start_later_though_one_answers_late(two):
    running, late, other = two
    next_one = Worker()
    other.lets.set()
    other.errors["figures"] = RuntimeError("a bug")
    await running.broadcast("figures", "said")
    assert [worker.did[-1] for worker in (late, other)] == [("figures", "said")] * 2
    await running.start(next_one)
    assert next_one.did[-2:] == [("figures", "said"), ("listen",)]
    late.count = 5
    late.lets.set()
    while late.count:
        await asyncio.sleep(0)  # it was not called off
