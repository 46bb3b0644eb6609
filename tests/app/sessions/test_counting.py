"""Sessions while a canary is tried: on which version their steps run, and what is counted of them."""

import json
from typing import Any

import numpy as np
import pytest

from app.sessions.record import Answer, Record
from app.traffic.assignment import ACTIVE, CANARY
from app.versions.lease import LoadedVersion, VersionInfo
from app.wire.codecs import JSON
from tests.support.session_policy import CountingEngine, ServedPolicy

pytestmark = pytest.mark.anyio


class BrokenEngine(CountingEngine):
    """Raises above 9."""

    def run(self, function: str, inputs: Any) -> Any:
        if (inputs["0/observation"] > 9).any():
            raise RuntimeError("it is broken")
        return super().run(function, inputs)


def try_canary(served: ServedPolicy, share: float = 1.0, digest: str = "d9", train_step: int = 9) -> LoadedVersion[Any]:
    arms = served.policy.arms
    arms.canary = LoadedVersion(BrokenEngine(), VersionInfo("canary", digest, train_step))
    arms.share = share
    served.policy.batcher.traffic = arms
    return arms.canary


def end_trial(served: ServedPolicy) -> None:
    served.policy.arms.canary = None
    served.policy.batcher.traffic = None


async def begin(served: ServedPolicy, id_: str = "a", **fields: Any) -> dict[str, Any]:
    body = json.dumps({"observation": [1.0], "id": id_, **fields}).encode()
    _, answer = await served.sessions.begin(served.policy, JSON, JSON, body)
    return dict(json.loads(answer.body))


async def step(served: ServedPolicy, id_: str = "a", **fields: Any) -> dict[str, Any]:
    body = json.dumps({"observation": [1.0], **fields}).encode()
    answer = await served.sessions.step(served.policy, id_, JSON, JSON, body)
    return dict(json.loads(answer.body))


def figures(served: ServedPolicy) -> dict[str, tuple[int, int, float]]:
    """Of both arms: sessions, episodes, and their mean return."""
    taken = served.policy.arms.take_figures().arms
    return {arm: (one.sessions, one.returns.episodes, one.returns.mean) for arm, one in taken.items()}


async def test_a_session_keeps_to_its_arm_and_goes_on_when_it_ends() -> None:
    async with ServedPolicy.open() as served:
        assert (await begin(served, "early"))["version"] == "v0"
        try_canary(served)
        assert (await begin(served))["version"] == "canary"
        for id_, version in (("early", "v0"), ("a", "canary")):
            assert (await step(served, id_))["version"] == version
        served.policy.arms.share = 0.0
        assert (await step(served))["version"] == "canary"
        end_trial(served)
        assert (await step(served))["version"] == "v0"
        try_canary(served, digest="another")
        assert (await step(served))["version"] == "v0"
        try_canary(served)  # the same again
        assert (await step(served))["version"] == "canary"
        assert (await step(served))["action"] == [7.0]  # its state has gone along


async def test_who_wants_newer_weights_than_the_canarys_gets_them() -> None:
    async with ServedPolicy.open() as served:
        try_canary(served, train_step=-1)
        assert (await begin(served))["version"] == "canary"
        assert (await step(served, options={"min_train_step": 0}))["version"] == "v0"
        assert (await step(served))["version"] == "canary"


async def test_a_step_that_fails_is_answered_with_its_state() -> None:
    async with ServedPolicy.open() as served:
        try_canary(served)
        await begin(served)
        answer = await step(served, observation=[10.0], step=1)
        assert (answer["version"], answer["action"]) == ("v0", [11.0])
        assert (await step(served, observation=[10.0], step=1)) == answer  # it is kept, as any answer is
        assert (await step(served))["version"] == "canary"
        taken = served.policy.arms.take_figures().arms
        assert (taken[CANARY].failures, taken[CANARY].answers, taken[ACTIVE].answers) == (1, 2, 1)
        assert taken[CANARY].failure == "the policy failed: RuntimeError"


async def test_episodes_count_for_their_arm_once_with_their_rewards() -> None:
    async with ServedPolicy.open() as served:
        await begin(served, "early")
        await step(served, "early", reward=100.0)
        try_canary(served)
        await begin(served)
        await step(served, reward=1.0, step=1)
        await step(served, reward=1.0, step=1)
        await step(served, reward=2.0, step_type=2)
        assert figures(served) == {ACTIVE: (0, 0, pytest.approx(np.nan, nan_ok=True)), CANARY: (1, 1, 3.0)}
        await step(served, reward=9.0)  # the next episode of the session begins, as the last has ended
        await step(served, reward=5.0, step_type=2)
        await step(served, "early", reward=1.0, step_type=2)  # it began before: what it got then is unknown
        await step(served, "early")
        await step(served, "early", reward=7.0, step_type=2)
        assert figures(served) == {ACTIVE: (0, 1, 7.0), CANARY: (0, 1, 5.0)}


async def test_each_row_of_a_vector_is_an_episode() -> None:
    async with ServedPolicy.open() as served:
        try_canary(served)
        await begin(served, observation=[[1.0], [1.0]])
        both = {"observation": [[1.0], [1.0]]}
        await step(served, **both, reward=[1.0, 2.0], step_type=[1, 2])
        await step(served, **both, reward=[1.0, 9.0], step_type=[2, 0])
        await step(served, **both, reward=[9.0, 4.0], step_type=[0, 2])
        assert figures(served)[CANARY] == (1, 3, pytest.approx((2.0 + 2.0 + 4.0) / 3))


async def test_an_episode_across_two_trials_counts_for_none() -> None:
    async with ServedPolicy.open() as served:
        try_canary(served, share=0.0)
        await begin(served)
        try_canary(served, share=0.0, digest="another")
        await step(served, reward=1.0, step_type=2)
        assert figures(served)[ACTIVE][:2] == (1, 0)


async def test_a_session_that_keeps_its_weights_keeps_the_canarys_and_counts_for_it() -> None:
    async with ServedPolicy.open() as served:
        canary = try_canary(served)
        kept = served.policy.versions
        kept.find = lambda digest: canary if digest == "d9" else None  # type: ignore[method-assign]
        await begin(served, weights="episode")
        await step(served, reward=1.0, step_type=2)
        assert figures(served)[CANARY] == (1, 1, 1.0)
        end_trial(served)
        assert (await step(served))["version"] == "canary"
        kept.find = lambda digest: None  # type: ignore[method-assign]
        assert (await step(served))["version"] == "v0"  # it is gone: no session of a canary fails for that


async def test_a_session_that_keeps_older_weights_counts_for_no_arm() -> None:
    async with ServedPolicy.open() as served:
        await begin(served, weights="episode")
        try_canary(served)
        served.policy.versions.find = lambda digest: served.loaded  # type: ignore[method-assign]
        served.policy.versions.active = LoadedVersion(  # type: ignore[misc]
            CountingEngine(), VersionInfo("v1", "d1", 1)
        )
        await step(served, step_type=0)
        await step(served, reward=1.0, step_type=2)
        assert figures(served)[ACTIVE][:2] == (0, 0)


async def test_nothing_is_kept_of_returns_without_a_canary() -> None:
    async with ServedPolicy.open() as served:
        await begin(served)
        record = await served.sessions._store.get(("p", "a"))  # type: ignore[union-attr,arg-type]
        assert record is not None
        assert record.sums is None


async def test_what_is_known_of_episodes_is_the_same_after_its_bytes() -> None:
    async with ServedPolicy.open() as served:
        try_canary(served)
        await begin(served)
        await step(served, reward=0.1)
        record = await served.sessions._store.get(("p", "a"))  # type: ignore[union-attr,arg-type]
        assert record is not None
        read = Record.from_bytes(record.to_bytes())
        assert read.run.arm == "d9"
        assert read.sums is not None
        assert read.sums.canary == "d9"
        np.testing.assert_array_equal(read.sums.rows, [[np.float32(0.1), 1.0]])
        assert record.size > Record(record.run, 1, record.state, None, "v", 1, Answer("", record.answer.body)).size
