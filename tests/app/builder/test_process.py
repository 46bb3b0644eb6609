"""The builder's calls; and who is to blame for a refusal: the checkpoint, or the machine."""

import errno
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from app.builder import process
from app.builder.process import Calls, _blamed
from app.errors import PolicyServerError, SwapRefused, UnusablePolicy
from saver import PolicySaver
from tests.support import saver_policies


def failing(error: Exception, refusal: Exception | None = None) -> None:
    try:
        raise error
    except Exception:
        if refusal is None:
            raise
        raise refusal from None


@pytest.mark.parametrize(
    ("error", "for_now", "no_room"),
    [
        (OSError(errno.ENOSPC, "full"), True, True),
        (OSError(errno.EDQUOT, "full"), True, True),
        (OSError(errno.EMFILE, "too many"), True, False),
        (MemoryError(), True, False),
        (OSError(errno.ENOENT, "gone"), False, False),
        (ValueError("odd"), False, False),
    ],
)
def test_a_refusal_for_which_the_machine_is_to_blame_is_one_for_now(
    error: Exception, for_now: bool, no_room: bool
) -> None:
    with pytest.raises(SwapRefused) as caught:
        _blamed(failing, error, SwapRefused("in other words"))
    arrived = pickle.loads(pickle.dumps(caught.value))
    assert (str(arrived), arrived.for_now, arrived.no_room) == ("in other words", for_now, no_room)


def test_what_the_machine_does_not_give_is_no_bug() -> None:
    with pytest.raises(SwapRefused, match="cannot go on: MemoryError") as caught:
        _blamed(failing, MemoryError("much"))
    assert caught.value.for_now
    for error in (ValueError("a bug"), UnusablePolicy("cannot be loaded")):
        with pytest.raises(type(error)) as same:
            _blamed(failing, error)
        assert same.value is error
    assert not isinstance(ValueError(), PolicyServerError)


class Reports:
    """The link to the control process, which gets each step."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def note(self, name: str, policy: str, steps: list[tuple[str, float]]) -> None:
        assert (name, policy) == ("steps", "p")
        assert all(seconds >= 0 for _, seconds in steps)
        self.steps += [step for step, _ in steps]


@pytest.mark.anyio
async def test_a_call_names_all_that_it_is_about_and_each_step_is_reported(tmp_path: Path) -> None:
    PolicySaver(saver_policies.q()).save(tmp_path / "p")
    with ThreadPoolExecutor(1) as executor:
        calls, reports = Calls(executor, "auto"), Reports()
        calls.link = reports  # type: ignore[assignment]
        handlers = calls.handlers()
        graph = await handlers["open"](tmp_path / "p", tmp_path / "graphs")
        # In the order in which `app.rpc.builder` sends them: recorded, given, serving, whether to compile.
        how = ([], [("a line", {})], None, False)
        prepared = await handlers["prepare"]("p", graph, None, graph.digest, tmp_path / "version", *how)
        # Policies that differ in weights alone share what is compiled; others do not.
        weights = replace(graph, digest="other weights", train_step=7)
        functions = replace(weights, files={**graph.files, "serving/saved_model.pb": "others"})
        shared = [calls._builder(str(number), one)._of_graph for number, one in enumerate((graph, weights, functions))]
    assert calls._builders["p"]._of_graph is shared[0] is shared[1] is not shared[2]
    await anyio.wait_all_tasks_blocked()
    assert prepared.bundle.probed["asked"] == 5
    assert prepared.bundle.engine_reason == "the builder process crashed while compiling it"
    assert reports.steps == ["loaded", "probe inputs asked"]


@pytest.mark.anyio
async def test_a_version_gives_way_to_answers_unless_another_policy_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PolicySaver(saver_policies.q()).save(tmp_path / "p")
    wanted = True
    monkeypatch.setattr(process, "all_cores_are_wanted", lambda: wanted)
    goes_on = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        calls = Calls(executor, "auto")
        calls.link = Reports()  # type: ignore[assignment]
        handlers = calls.handlers()
        graph = await handlers["open"](tmp_path / "p", tmp_path / "graphs")
        await handlers["prepare"]("p", graph, None, graph.digest, tmp_path / "version", [], [], None, False)
        builder = calls._builders["p"]
        assert builder.gives_way()
        wanted = False
        assert not builder.gives_way()
        wanted = True
        executor.submit(goes_on.wait, 60)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(handlers["check"], "p", graph, tmp_path / "p")
                await anyio.wait_all_tasks_blocked()
                assert builder.gives_way()  # that is the one under way
                tasks.start_soon(handlers["check"], "p", graph, tmp_path / "p")
                await anyio.wait_all_tasks_blocked()
                assert not builder.gives_way()
                goes_on.set()
        finally:
            goes_on.set()
        assert builder.gives_way()
