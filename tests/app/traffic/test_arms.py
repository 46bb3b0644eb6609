"""The arms of a policy in a worker: which version a session gets, and what is counted."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.artifacts.bundle import Bundle
from app.batching.rule import Job
from app.errors import EngineFailed, SwapRefused, VersionNotLoaded
from app.rpc.messages import Arm, ShadowFigures, TrafficPlan
from app.traffic.arms import Arms
from app.traffic.assignment import ACTIVE, CANARY
from app.versions.active import LoadedVersions
from tests.support.shadows import Unasked

pytestmark = pytest.mark.anyio
GRAPH: Any = None


class Loader:
    """Engines are the digests of their bundles."""

    def __init__(self) -> None:
        self.given_back: list[Any] = []
        self.refused: set[str] = set()

    def load(self, _: Any, bundle: Bundle) -> Any:
        if bundle.digest in self.refused:
            raise SwapRefused(f"{bundle.digest} cannot be loaded")
        return bundle.digest

    def stand_by(self, graph: Any, bundle: Bundle) -> None: ...

    def give_back(self, engine: Any) -> None:
        self.given_back.append(engine)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def needed() -> set[str]:
    """The digests that sessions need."""
    return set()


@pytest.fixture
def versions(loader: Loader, needed: set[str]) -> Iterator[LoadedVersions]:
    with ThreadPoolExecutor(1) as executor:
        yield LoadedVersions(loader, executor, needed.__contains__, 1)


def bundle(digest: str) -> Bundle:
    return Bundle(Path(), "graph", digest, 1, "fake", "", {})


def arm(digest: str, share: float = 0.5) -> Arm:
    return Arm(f"version {digest}", GRAPH, bundle(digest), share)


async def serve(versions: LoadedVersions, digest: str) -> None:
    await versions.prepare(GRAPH, bundle(digest))
    versions.activate(f"version {digest}", digest)


@pytest.fixture
async def arms(versions: LoadedVersions) -> Arms:
    """Version a serves, and b is the canary."""
    await serve(versions, "a")
    made = Arms(versions, Unasked)  # type: ignore[arg-type]
    await made.follow(TrafficPlan(arm("b")))
    return made


async def test_sessions_get_the_canary_by_their_id(arms: Arms) -> None:
    chosen = [arms.for_new(f"session {number}") for number in range(200)]
    assert {one.version.digest for one in chosen if one is not None} == {"b"}
    assert 60 < sum(one is None for one in chosen) < 140
    await arms.follow(TrafficPlan(arm("b", 1.0)))
    assert all(arms.for_new(f"session {number}") is arms.canary for number in range(200))
    await arms.follow(TrafficPlan())
    assert arms.for_new("session 1") is arms.of("b") is arms.canary is None


async def test_no_swap_takes_a_version_that_is_tried(versions: LoadedVersions, arms: Arms, loader: Loader) -> None:
    tried = arms.canary
    assert tried is not None
    for digest in ("c", "b", "d"):  # it serves meanwhile
        await serve(versions, digest)
        assert versions.find("b") is tried
        assert not tried.retired
    assert sorted(loader.given_back) == ["a", "b", "c"]  # b was loaded once more, for the swap
    await arms.follow(TrafficPlan())
    assert tried.retired
    assert versions.find("b") is None


async def test_a_session_keeps_a_canary_beyond_its_trial(
    versions: LoadedVersions, arms: Arms, needed: set[str]
) -> None:
    needed.add("b")
    tried = arms.canary
    await arms.follow(TrafficPlan())
    assert versions.retained == {"b"}
    assert versions.find("b") is tried
    await arms.follow(TrafficPlan(arm("b")))  # and it may be tried again
    assert arms.canary is tried
    assert versions.retained == set()


async def test_what_sessions_keep_does_not_go_for_a_canary(versions: LoadedVersions, needed: set[str]) -> None:
    needed |= {"a"}
    await serve(versions, "a")
    await serve(versions, "c")
    arms = Arms(versions, Unasked)  # type: ignore[arg-type]
    await arms.follow(TrafficPlan(arm("b")))
    assert versions.retained == {"a"}
    assert {loaded.version.digest for loaded in versions.all} == {"a", "b", "c"}


async def test_a_version_that_cannot_be_loaded_leaves_what_was_tried(arms: Arms, loader: Loader) -> None:
    loader.refused.add("c")
    with pytest.raises(SwapRefused, match="c cannot be loaded"):
        await arms.follow(TrafficPlan(arm("c")))
    assert arms.canary is not None
    assert arms.canary.version.digest == "b"


async def test_a_request_names_a_version_that_is_loaded(versions: LoadedVersions, arms: Arms) -> None:
    assert arms.asked("canary") is arms.asked("version b") is arms.canary
    assert arms.asked("version a") is versions.active
    with pytest.raises(VersionNotLoaded, match="'x' is not loaded; there are: version a, version b; the canary is"):
        arms.asked("x")
    await arms.follow(TrafficPlan(None, arm("c")))
    assert arms.asked("version c") is arms.shadow
    with pytest.raises(VersionNotLoaded, match="there are: version a, version c; there is no canary"):
        arms.asked("canary")


def job(failed: str = "") -> Job:
    made = Job("action", {}, 1, asked_at=10.0, failed=failed)
    made.waiter = asyncio.get_running_loop().create_future()
    return made


async def test_answers_count_for_the_version_that_gave_them(versions: LoadedVersions, arms: Arms) -> None:
    assert arms.canary is not None
    arms.delivers(arms.canary, [job(), job()], [{}, {}], 10.25, waits=False)
    arms.delivers(
        versions.active,
        [job(), job("it broke"), job("and again")],
        [{}, {}, EngineFailed("as well")],
        11.0,
        waits=False,
    )
    arms.delivers(versions.active, [job("neither could")], [{"state": np.array([np.inf])}], 11.0, waits=False)
    arms.delivers(arms.canary, [job()], [EngineFailed("asked by its name")], 10.0, waits=False)
    gone = job()
    gone.waiter.cancel()  # type: ignore[attr-defined]
    arms.delivers(arms.canary, [gone], [{}], 10.0, waits=False)
    figures = arms.take_figures().arms
    assert (figures[CANARY].answers, figures[ACTIVE].answers) == (2, 3)
    assert (figures[CANARY].failures, figures[CANARY].failure) == (2, "it broke")
    assert figures[ACTIVE].failures == 0
    assert sum(figures[CANARY].seconds.values()) == 2
    assert arms.take_figures().arms[CANARY].answers == 0


async def test_figures_of_workers_add_up(arms: Arms) -> None:
    arms.begun(CANARY)
    arms.ended(CANARY, np.array([[1.0, 4.0], [np.nan, 6.0], [np.inf, 5.0]]))
    one = arms.take_figures().arms[CANARY]
    assert (one.sessions, one.returns.episodes, one.returns.count, one.returns.mean) == (1, 3, 1, 1.0)
    assert one.returns.mean_length == 5.0
    arms.ended(CANARY, np.array([[3.0, 1.0]]))
    both = one.joined(arms.take_figures().arms[CANARY])
    assert (both.sessions, both.returns.episodes, both.returns.mean, both.returns.mean_length) == (1, 4, 2.0, 4.0)


async def test_another_canary_begins_at_nothing(arms: Arms) -> None:
    arms.begun(CANARY)
    await arms.follow(TrafficPlan(arm("b", 0.7)))
    assert arms.take_figures().arms[CANARY].sessions == 1
    arms.begun(CANARY)
    await arms.follow(TrafficPlan(arm("c")))
    assert arms.take_figures().arms[CANARY].sessions == 0


async def test_a_shadow_is_offered_what_the_active_version_answers_and_nothing_else(
    versions: LoadedVersions, arms: Arms
) -> None:
    assert arms.canary is not None
    await arms.follow(TrafficPlan(arm("b"), arm("c")))
    shadow: Any = arms._asked_beside
    jobs, outcomes = [job()], [{}]
    arms.delivers(versions.active, jobs, outcomes, 10.0, waits=True)
    arms.delivers(arms.canary, jobs, outcomes, 10.0, waits=False)
    assert shadow.offered == [(versions.active, jobs, outcomes, 10.0, True)]
    assert arms.take_figures().shadow is not None
    await arms.follow(TrafficPlan(arm("b"), arm("c", 0.25)))
    assert arms._asked_beside is shadow
    assert shadow.share == 0.25
    await arms.follow(TrafficPlan(arm("b"), arm("d")))
    assert shadow.closed
    assert arms.take_figures().shadow == ShadowFigures()
    arms.close()
    assert arms.take_figures().shadow is None
