"""What all workers, and all servers of a fleet, have seen of what is tried; and what ends a canary's trial."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.artifacts.bundle import Bundle
from app.control.arm_metrics import ArmMetrics
from app.control.states import Version
from app.control.totals import Seen, Totals
from app.control.trial import Ended, Trial
from app.control.workers import Workers
from app.errors import FleetLost
from app.metrics import Metrics
from app.returns import Returns
from app.rpc.messages import ArmFigures, ArmWish, ShadowFigures, TrafficFigures
from tests.support.swapping import GRAPH

pytestmark = pytest.mark.anyio


class Worker:
    """A worker that gives its figures once. `before_answer`: is called before it does."""

    def __init__(self, shadow: ShadowFigures | None = None, **arms: ArmFigures) -> None:
        self._figures = [TrafficFigures(arms, shadow)]
        self.before_answer: Callable[[], None] = lambda: None

    async def traffic_figures(self) -> TrafficFigures:
        self.before_answer()
        return self._figures.pop() if self._figures else TrafficFigures({})


class Scenario:
    def __init__(self, *workers: Any) -> None:
        self.metrics, group = Metrics(), Workers()
        for worker in workers:
            group.admit(worker)
        self.totals = Totals(group, ArmMetrics(self.metrics.policy("p")))

    def counted(self, name: str, arm: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"policy_server_{name}", {"policy": "p", "arm": arm})


def episodes(*returns: float, **more: Any) -> ArmFigures:
    """Of so many sessions, with an episode of two steps each."""
    return ArmFigures(len(returns), Returns.of(np.array(returns), np.full(len(returns), 2.0)), **more)


def trial(**rules: Any) -> Trial:
    bundle = Bundle(Path("b"), GRAPH.digest, "B", 1, "fake", "", {})
    return Trial(ArmWish("b", 0.5, **rules), Version("b", "B", 1), GRAPH, bundle, None, 0.0)


async def test_figures_of_all_workers_are_added_to_what_is_known() -> None:
    scenario = Scenario(Worker(canary=episodes(10.0)), Worker(canary=episodes(30.0), active=episodes(5.0)))
    scenario.totals.begin({"canary": episodes(80.0)})
    for _ in range(2):  # the second time, nothing is new
        await scenario.totals.collect()
        canary = scenario.totals.of("canary")
        assert (canary.sessions, canary.returns.mean) == (3, 40.0)
        assert scenario.counted("arm_mean_return", "canary") == 40.0  # of all
        assert scenario.counted("arm_episodes_total", "canary") == 2  # since this server was started
    assert scenario.totals.of("active").returns.mean == 5.0
    assert scenario.totals.of("shadow") == ArmFigures()


@pytest.mark.parametrize("anew", ["canary", "shadow"])
async def test_figures_of_what_was_tried_before_are_dropped_and_those_of_the_other_one_count(anew: str) -> None:
    worker = Worker(ShadowFigures(compared=4), canary=episodes(10.0))
    scenario = Scenario(worker)
    worker.before_answer = scenario.totals.begin if anew == "canary" else scenario.totals.begin_shadow
    await scenario.totals.collect()
    seen = scenario.totals.of("canary").sessions, scenario.totals.shadow.compared
    assert seen == ((0, 4) if anew == "canary" else (1, 0))


class Others:
    """The other servers of a fleet. `lost`: they cannot be asked."""

    def __init__(self, *seen: Seen) -> None:
        self.seen = seen
        self.given: list[Seen] = []
        self.lost = False

    async def __call__(self, seen: Seen) -> Sequence[Seen]:
        if self.lost:
            raise FleetLost("gone")
        self.given.append(seen)
        return self.seen


async def test_what_other_servers_have_seen_counts_for_the_same_trial_alone() -> None:
    scenario = Scenario(Worker(ShadowFigures(compared=1), canary=episodes(1.0)))
    scenario.totals.keys = "B 0.0", "C 0.0"
    scenario.totals.exchange = others = Others(
        Seen("B 0.0", {"canary": episodes(2.0)}, "C 9.0", ShadowFigures(compared=10)),
        Seen("B 9.0", {"canary": episodes(3.0)}, "C 0.0", ShadowFigures(compared=20)),
        Seen("B 0.0", {}),
    )
    await scenario.totals.collect()
    assert others.given == [Seen("B 0.0", scenario.totals.own, "C 0.0", ShadowFigures(compared=1))]
    assert scenario.totals.of("canary").returns.mean == 1.5
    assert scenario.totals.shadow.compared == 21
    assert scenario.totals.own["canary"].sessions == 1  # or it would come back from them, and grow
    assert scenario.counted("arm_sessions_total", "canary") == 1


async def test_what_this_server_has_seen_is_kept_where_the_others_cannot_be_asked() -> None:
    scenario = Scenario(Worker(canary=episodes(1.0)))
    scenario.totals.keys = "B 0.0", ""
    scenario.totals.exchange = others = Others(Seen("B 0.0", {"canary": episodes(3.0)}))
    await scenario.totals.collect()
    others.lost = True
    with pytest.raises(FleetLost):
        await scenario.totals.collect()
    assert scenario.totals.of("canary").returns.mean == 2.0


async def test_a_failure_anywhere_stops_a_canary_that_enough_episodes_would_promote() -> None:
    failing = episodes(9.0, answers=5, failures=1, failure="the policy failed: ValueError")
    scenario = Scenario(Worker(canary=episodes(9.0, answers=14)))
    scenario.totals.keys = "B 0.0", ""
    scenario.totals.exchange = Others(Seen("B 0.0", {"canary": failing}))
    await scenario.totals.collect()
    reason = "it failed on 1 of 20 requests, which the active version answered: the policy failed: ValueError"
    assert scenario.totals.decision(trial(promote_after_episodes=1)) == (Ended.STOP, reason)


def test_a_server_that_cannot_try_it_counts_as_a_failure_with_its_reason() -> None:
    totals = Scenario().totals
    totals.failed("member m: no memory")
    totals.failed("member m: its disk is full")
    reason = "it failed on 2 of 2 requests, which the active version answered: member m: no memory"
    assert totals.decision(trial()) == (Ended.STOP, reason)


@pytest.mark.parametrize(
    ("gained", "rules", "ended"),
    [
        (10.0, {"promote_after_episodes": 40}, Ended.PROMOTE),
        (10.0, {"promote_after_episodes": 41}, None),
        (10.0, {}, None),
        (5.0, {"stop_if_return_drops": 0.1, "promote_after_episodes": 40}, Ended.STOP),
    ],
)
def test_episodes_decide_by_the_rules_of_the_trial(gained: float, rules: dict[str, Any], ended: Ended | None) -> None:
    totals = Scenario().totals
    totals.begin({"active": episodes(*[10.0] * 40), "canary": episodes(*[gained] * 40)})
    decision = totals.decision(trial(**rules))
    assert (None if decision is None else decision[0]) == ended
