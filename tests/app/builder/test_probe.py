"""What a version answers to probe inputs is published, and a new one has to answer what the one before it did."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.artifacts.bundle import RowSharing
from app.builder.probe import Probe, Probed, Trial, check_no_worse, examine, probes_of
from app.errors import SwapRefused
from saver.artifact import Leaf, PolicySpec, Signature, TensorInfo
from tests.support.specs import policy_spec

INPUTS = {name: TensorInfo("float32", (None,)) for name in ("0/step_type", "0/reward", "0/discount", "0/observation")}
SPEC = policy_spec(
    Leaf("0/observation", "float32", (), -1.0, 1.0),
    action=Leaf("action", "float32", (), 0.0, 10.0),
    signatures={"action": Signature(INPUTS, {})},
)


class Answering:
    """An engine that answers with the observation's inverse, and fails above a limit or on more than one row."""

    def __init__(self, above: float = np.inf, most_rows: int = 1000, spec: PolicySpec = SPEC) -> None:
        self.sharing = RowSharing(one_row=True)  # as the version before left it
        self.above = above
        self.most_rows = most_rows
        self.calls: list[int] = []

    def initial_state(self, rows: int) -> dict[str, np.ndarray]:
        return {}

    def run(self, function: str, inputs: Any) -> dict[str, np.ndarray]:
        assert function == "action"
        assert self.sharing == RowSharing(), "what was known of another version is forgotten"
        observation = inputs["0/observation"]
        self.calls.append(len(observation))
        if len(observation) > self.most_rows:
            raise RuntimeError("one row at a time\nand more lines")
        if (observation > self.above).any():
            raise ValueError("too large")
        return {"action": np.abs(observation)}


def row(observation: float) -> dict[str, np.ndarray]:
    ones = {name: np.zeros(1, np.float32) for name in INPUTS}
    return ones | {"0/observation": np.full(1, observation, np.float32)}


def given(*observations: float) -> list[tuple[str, dict[str, np.ndarray]]]:
    return [(f"line {number}", row(observation)) for number, observation in enumerate(observations, 1)]


def examined(engine: Answering, spec: PolicySpec = SPEC, **more: Any) -> Probed:
    return examine(engine, spec, probes_of(spec, **more))  # type: ignore[arg-type]


def test_a_finite_action_of_float64_can_be_compared_whatever_its_size() -> None:
    spec = replace(SPEC, action=Leaf("action", "float64", (), 0.0, 1e300))
    found = examined(Large(), spec)
    assert not found.failed
    assert all(probe.comparable for probe in found.probes)


class Large(Answering):
    """Answers with numbers that no float32 holds."""

    def run(self, function: str, inputs: Any) -> dict[str, np.ndarray]:
        return {"action": super().run(function, inputs)["action"].astype(np.float64) * 1e200}


def test_probes_are_made_from_the_spec_given_by_name_and_of_real_requests() -> None:
    probes = probes_of(SPEC, given(0.5), [row(0.25) | {"noise/uniform": np.zeros((1, 1), np.float32)}])
    assert [probe.recorded for probe in probes] == [False] * 5 + [True]
    assert probes[0].name.startswith("probe input 1 (observation ")
    assert [probe.name for probe in probes[4:]] == ["line 1", "an input of a real request"]
    assert probes[5].inputs.keys() == INPUTS.keys(), "what action takes, and nothing else"


def test_rows_are_asked_together_and_all_answered() -> None:
    engine = Answering()
    probed = examined(engine, recorded=[row(0.1)] * 66)
    assert engine.calls == [64, 6]
    assert probed.public() == {"asked": 70, "answered": 70, "problems": []}
    assert (probed.why_unchecked, probed.sharing) == ("", RowSharing())


def test_of_large_rows_fewer_are_asked_together() -> None:
    engine = Answering()
    action = SPEC.signatures["action"]
    wide = TensorInfo("float32", (None, 200, 100))  # a state, say, which the probes leave out
    spec = replace(
        SPEC, signatures=SPEC.signatures | {"action": replace(action, inputs={**action.inputs, "wide": wide})}
    )
    examine(engine, spec, [Probe("narrow", row(0.1))] * 20)  # type: ignore[arg-type]
    assert engine.calls[0] == 16


def test_where_one_is_refused_each_is_asked_alone() -> None:
    probed = examined(Answering(above=0.9), given=given(0.95, 0.5))
    assert [probe.problem for probe in probed.probes[4:]] == ["the policy fails: too large", ""]
    assert not probed.one_row
    assert probed.why_unchecked == ""


def test_one_that_takes_one_row_a_call_is_noticed_and_not_compared() -> None:
    probed = examined(Answering(most_rows=1))
    assert probed.failed == []
    assert probed.sharing == RowSharing(one_row=True)
    assert probed.why_unchecked == "it answers one row a call only"


def test_one_that_answers_nothing_cannot_be_compared() -> None:
    probed = examined(Answering(above=-2))
    assert probed.public()["answered"] == 0
    assert probed.why_unchecked.startswith("no probe input is answered, so that LiteRT's answers cannot be compared (")
    assert probed.why_unchecked.endswith(": the policy fails: too large)")


@pytest.mark.parametrize(
    ("dtype", "value", "problem", "comparable"),
    [
        ("int32", 11, "action is 11 to 11, outside its bounds", True),
        ("float32", np.nan, "action is not finite", False),
        ("float32", 11, "", True),  # bounds of floats exclude nothing
    ],
)
def test_an_answer_that_the_spec_excludes_is_a_problem(dtype, value, problem, comparable) -> None:
    class Constant(Answering):
        def run(self, function: str, inputs: Any) -> dict[str, np.ndarray]:
            return {"action": np.full(len(inputs["0/observation"]), value, dtype)}

    probed = examined(Constant(), replace(SPEC, action=Leaf("action", dtype, (), 0, 10)))
    assert {probe.problem for probe in probed.probes} == {problem}
    assert {probe.comparable for probe in probed.probes} == {comparable}
    assert probed.any_answered is comparable


def test_the_description_lists_eight_problems_and_counts_the_others() -> None:
    probes = tuple(Probe(f"p{number}", {}, problem="fails") for number in range(11))
    assert Probed(probes).public()["problems"][7:] == ["p7: fails", "and 3 more"]


def test_a_version_may_fail_where_the_one_before_it_failed_too() -> None:
    failed = Probe("line 1", {}, problem="the policy fails: too large")
    check_no_worse(Probed((failed,)), Probed((failed,)))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_version_that_fails_where_the_one_before_it_answered_is_refused(recorded: bool) -> None:
    """For now, where the input is of a real request: those of a minute later are others."""
    failed = Probe("line 1", {}, recorded, problem="the policy fails: too large")
    with pytest.raises(SwapRefused, match="the policy fails: too large on line 1") as caught:
        check_no_worse(Probed((failed,)), Probed((replace(failed, problem=""),)))
    assert caught.value.for_now is recorded


def test_a_trial_has_the_operators_rows_first() -> None:
    first, second = row(0.1), row(0.2)
    assert Trial([second], [("line 1", first)]).rows == [first, second]
    assert Trial().rows == []
