"""Answers that were sent beside those of a shadow: what is asked of it, and what is counted."""

from typing import Any

import numpy as np
import pytest

from app.batching.rule import Job
from app.rpc.messages import ShadowFigures
from app.traffic.asking import Asking, Sent, tolerances
from app.versions.lease import LoadedVersion, VersionInfo
from saver.artifact import Leaf
from tests.app.traffic.shadows import FAILS, OVERFLOWS, REFUSES, WeightLoader, arm, bundle, graph, loaded
from tests.support.specs import policy_spec

ACTIVE = "weight 1.0"


def sent(*firsts: float, function: str = "action", by: LoadedVersion[Any] | None = None, **more: Any) -> Sent:
    """A request whose rows have these first entries and the state 0.25, and the answer of the active version."""
    by = by or loaded(ACTIVE)
    rows = len(firsts)
    inputs = {"0/observation": np.array([[first, 1.0, 0.0, 0.0] for first in firsts], np.float32)}
    job = Job(function, inputs, rows, **more)
    if not job.needs_state or job.reset_mask is not None:
        inputs["1/0"] = np.full(rows, 0.25, np.float32)
    whole = inputs if not job.needs_state else inputs | {"1/0": np.full(rows, 0.5, np.float32)}
    if job.reset_mask is not None:
        whole = inputs | {"1/0": np.where(job.reset_mask, 0.5, 0.25).astype(np.float32)}
    outputs = loaded(by.version.digest).engine.run(function, whole) if abs(firsts[0]) < FAILS else None
    kept = ("action/loc", "action/scale") if function == "distribution" else ("action",)
    answered = {name: np.zeros((rows, 2), np.float32) for name in kept} if outputs is None else outputs
    return Sent(job, {name: answered[name] for name in kept}, by)


def asking(digest: str, loader: WeightLoader | None = None, **more: Any) -> Asking:
    made = Asking(arm(digest, **more), loader or WeightLoader())
    made.load()
    return made


def counts(figures: ShadowFigures) -> tuple[int, int]:
    return figures.compared, figures.agreed


def test_rows_are_compared_and_their_distributions_too() -> None:
    loader = WeightLoader()
    figures = asking("weight 1.002", loader).compared([sent(1.0, 2.0), sent(-0.5), sent(4.0)])
    # 1e-3 of the range, which is 4: the largest difference of each row is that of its first entry, or of the 1.0.
    assert counts(figures) == (4, 3)
    assert figures.max_difference == pytest.approx(0.008, abs=1e-6)
    apart = np.array([[1.0, 1.0], [2.0, 1.0], [-0.5, 1.0], [4.0, 1.0]]) * 0.002
    assert figures.kl == pytest.approx((0.5 * apart**2).sum(), rel=1e-3)
    assert (figures.kl_rows, figures.kl_infinite, figures.answers, figures.failures) == (4, 0, 3, 0)
    assert sum(figures.seconds.values()) == 3
    assert loader.loaded["weight 1.002"].calls == [("action", 4), ("distribution", 4)]
    assert loader.loaded[ACTIVE].calls == [("distribution", 4)]


def test_each_function_is_asked_as_the_active_version_was() -> None:
    noise = np.array([[0.5, -0.5]], np.float32)
    seeded = sent(1.0, function="sample")
    seeded.job.inputs["noise/normal"] = noise
    answered = Sent(seeded.job, {"action": seeded.outputs["action"] + noise}, seeded.loaded)
    loader = WeightLoader()
    figures = asking("weight 1.00", loader).compared([answered, sent(1.0, function="greedy"), sent(2.0)])
    assert counts(figures) == (3, 3)
    assert figures.max_difference == 0.0
    assert {name for name, _ in loader.loaded["weight 1.00"].calls} == {"sample", "greedy", "action", "distribution"}


def test_policy_states_are_those_that_the_active_version_had() -> None:
    mask = np.array([True, False])
    jobs = [sent(1.0, 2.0), sent(1.0, needs_state=True), sent(1.0, 2.0, needs_state=True, reset_mask=mask)]
    assert counts(asking("weight 1.0").compared(jobs)) == (5, 5)


def test_where_chance_decides_only_distributions_are_compared() -> None:
    asked = asking("weight 1.5", WeightLoader(draws=True))
    figures = asked.compared([sent(1.0, 2.0), sent(1.0, function="distribution")])
    assert (counts(figures), figures.kl_rows, figures.answers) == ((0, 0), 3, 2)
    assert asking("weight 1.5", WeightLoader(draws=True), distribution=False).names("action") == ()
    assert asking("weight 1.5", distribution=False).names("distribution") == ()
    assert asking("weight 1.5", distribution=False).names("action") == ("action",)


def test_distributions_without_a_closed_form_leave_the_actions() -> None:
    loader = WeightLoader()
    figures = asking("weight 2.0", loader, distribution=False).compared([sent(1.0)])
    assert (counts(figures), figures.kl_rows) == ((1, 0), 0)
    assert list(loader.loaded) == ["weight 2.0"]


@pytest.mark.parametrize(
    ("first", "reason"),
    [(FAILS, "no such place"), (REFUSES, "not this one"), (OVERFLOWS, "the answer is not finite: action")],
)
def test_what_the_shadow_cannot_answer_is_its_failure_and_no_other_requests(first: float, reason: str) -> None:
    figures = asking("weight 1.0").compared([sent(1.0), sent(first), sent(2.0)])
    assert (counts(figures), figures.answers, figures.failures) == ((2, 2), 2, 1)
    assert reason in figures.failure


def test_rows_that_depend_on_each_other_are_asked_as_they_were_sent() -> None:
    loader = WeightLoader()
    asking(ACTIVE, loader, dependent="by their mean", distribution=False).compared([sent(1.0, 2.0), sent(3.0)])
    assert loader.loaded[ACTIVE].calls == [("action", 2), ("action", 1)]


def test_a_copy_of_the_active_version_is_loaded_once_for_each() -> None:
    loader = WeightLoader()
    asked = asking("weight 2.0", loader)
    first, second = loaded("weight 1.0"), loaded("weight 3.0")
    assert asked.compared([sent(1.0, by=first)]).kl_rows == 1
    copy = loader.loaded["weight 1.0"]
    assert asked.compared([sent(1.0, by=first)]).kl_rows == 1
    assert loader.loaded["weight 1.0"] is copy
    over_a_swap = asked.compared([sent(1.0, by=first), sent(1.0, by=second)])
    assert (over_a_swap.compared, over_a_swap.kl_rows) == (2, 0)
    assert asked.compared([sent(1.0, by=second)]).kl_rows == 1
    assert loader.given_back == [copy]


def test_without_a_copy_of_the_active_version_actions_are_compared() -> None:
    gone = LoadedVersion(loaded(ACTIVE).engine, VersionInfo(ACTIVE, ACTIVE, 1), (graph(), bundle("gone")))
    unknown = LoadedVersion(loaded(ACTIVE).engine, VersionInfo(ACTIVE, ACTIVE, 1))
    for by in (gone, unknown):
        figures = asking("weight 1.0").compared([sent(1.0, by=by)])
        assert (figures.compared, figures.kl_rows) == (1, 0)


def test_tolerances_are_a_thousandth_of_the_range_of_each_number() -> None:
    action = {
        "arm": Leaf("arm", "float32", (2,), (-1.0, 0.0), (1.0, 10.0)),
        "free": Leaf("free", "float32", ()),
        "wide": Leaf("wide", "float32", (2,), (-np.inf, 0.0), (0.0, 1.0)),
        "gear": Leaf("gear", "int32", (), 0, 4),
    }
    found = tolerances(policy_spec(action=action))
    np.testing.assert_allclose(found["arm"], [0.002, 0.01])
    assert found["free"] == 0.001
    np.testing.assert_allclose(found["wide"], [0.001, 0.001])
    assert set(found) == set(action)


def test_figures_of_workers_add_up() -> None:
    one = ShadowFigures(3, 2, 0.5, 0.25, 3, 1, 4, 2, 0, "", {5: 2})
    other = ShadowFigures(1, 1, 0.75, 0.5, 1, 0, 0, 1, 1, "why", {5: 1, 7: 1})
    assert one.joined(other) == ShadowFigures(4, 3, 0.75, 0.75, 4, 1, 4, 3, 1, "why", {5: 3, 7: 1})
