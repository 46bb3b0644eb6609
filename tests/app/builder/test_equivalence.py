import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.builder.equivalence import check_equivalence
from app.builder.equivalence_episodes import STEPS, check_episodes
from app.builder.row_comparison import Pair, Unequal
from app.engine.base import InputRefused
from app.engine.litert import LiteRTEngine
from app.engine.noise import CALL_NORMAL
from app.wire.tensors import Arrays
from saver.artifact import Leaf, Noise, ServingInfo, Signature, TensorInfo
from tests.support.compiled import CompiledPolicies
from tests.support.specs import policy_spec

OBSERVATION = Leaf("0/observation", "float32", (2,))
SERVING = ServingInfo({}, {}, Noise(0, 0), {})
SPEC = policy_spec(OBSERVATION)


class Values:
    """Answers the larger of two values; subclasses err in one way each."""

    name = "values"

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        values = self.values(inputs["0/observation"])
        return {"action": values.argmax(axis=1), "value": values.max(axis=1)}

    def values(self, observation: np.ndarray) -> np.ndarray:
        return observation.astype(np.float32)

    def initial_state(self, rows: int) -> Arrays:
        return {}


class Rounding(Values):
    """Less than anyone can see."""

    def values(self, observation):
        return observation * np.float32(1 + 1e-7)


class Tied(Values):
    """Both values are the same but for rounding, in which the two engines differ."""

    def __init__(self, better: int) -> None:
        self.better = better

    def values(self, observation):
        same = observation[:, :1] * np.ones((1, 2), np.float32)
        lowest_bits = np.zeros(2, np.float32)
        lowest_bits[self.better] = 1e-7
        # The rounding of a true engine depends on its inputs.
        noise = np.sin(observation[:, :1].astype(np.float64) * 1e9) * [[1e-7, -1e-7]]
        return same + np.abs(same) * (lowest_bits + noise).astype(np.float32)


class Steep(Values):
    """Makes differences large, those of rounding too."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = np.float32(factor)

    def run(self, function, inputs):
        return {"value": 1e6 * (inputs["0/observation"].sum(axis=1) * self.factor - np.float32(1))}


class Off(Values):
    def values(self, observation):
        return observation + np.float32(1e-3)


class Swapped(Values):
    def run(self, function, inputs):
        return super().run(function, inputs) | {"action": 1 - super().run(function, inputs)["action"]}


class Frozen(Values):
    """What it said first it says for ever."""

    def values(self, observation):
        return np.repeat(observation[:1], len(observation), axis=0)


class Unsteady(Values):
    """Two calls differ, within what rounding may do."""

    calls = 0

    def values(self, observation):
        self.calls += 1
        return observation * np.float32(1 + 1e-7 * (self.calls % 4))


class Neighbours(Values):
    """A row's answer depends on how many there are."""

    def values(self, observation):
        return observation * np.float32(1.0 if len(observation) > 1 else 1.1)


class Doubles(Values):
    def values(self, observation):
        return observation.astype(np.float64)


class Nameless(Values):
    def run(self, function, inputs):
        return {"action": super().run(function, inputs)["action"]}


class Stubborn(Values):
    def values(self, observation):
        raise InputRefused("no")


class Awake(Values):
    """Starts in a state of ones."""

    def initial_state(self, rows):
        return {"0": np.ones((rows, 2), np.float32)}


class Asleep(Values):
    def initial_state(self, rows):
        return {"0": np.zeros((rows, 2), np.float32)}


# As a first version is compared, and as those after it are: calls of 16 rows are never joined.
WAYS = pytest.mark.parametrize("how", [{}, {"rows": (3,), "joined": True}], ids=["first", "joined"])


@WAYS
@pytest.mark.parametrize("engine", [Values(), Rounding()])
def test_equal_up_to_rounding(engine, how):
    check_equivalence(Pair(engine, Values(), SPEC, SERVING), **how)


@WAYS
def test_rounding_may_decide_between_equal_values(how):
    check_equivalence(Pair(Tied(0), Tied(1), SPEC, SERVING), **{"rows": (1, 3), **how})


@WAYS
def test_rounding_may_be_made_large(how):
    check_equivalence(Pair(Steep(1 + 1e-7), Steep(), SPEC, SERVING), **how)
    with pytest.raises(Unequal):
        check_equivalence(Pair(Steep(1 + 1e-4), Steep(), SPEC, SERVING), **how)


class Noting(Values):
    """Notes the rows of each call, and the size of what is drawn for a call as a whole."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.drawn: set[int] = set()

    def run(self, function, inputs):
        self.calls.append([row.tobytes() for row in inputs["0/observation"]])
        self.drawn |= {len(array) for name, array in inputs.items() if name == CALL_NORMAL}
        return super().run(function, inputs)


@pytest.mark.parametrize("recorded", [1, 25])
def test_the_same_rows_are_compared_where_calls_are_joined(recorded):
    spec = replace(SPEC, signatures={"action": Signature({"0/observation": TensorInfo("float32", (None, 2))}, {})})
    rows = [{"0/observation": np.full((1, 2), value, np.float32)} for value in range(recorded)]
    apart, joined = Noting(), Noting()
    check_equivalence(Pair(Values(), apart, spec, SERVING), (3,), rows)
    check_equivalence(Pair(Values(), joined, spec, SERVING), (3,), rows, joined=True)
    assert sorted(itertools.chain(*joined.calls)) == sorted(itertools.chain(*apart.calls))
    assert [len(call) for call in joined.calls] == ([21, 1] if recorded == 1 else [21, 24, 1])
    assert len(apart.calls) == 7 + recorded


def test_recorded_rows_that_are_joined_are_each_compared():
    class OffAtSeven(Values):
        def values(self, observation):
            return observation + np.where(observation == 7, np.float32(1e-3), np.float32(0))

    spec = replace(SPEC, signatures={"action": Signature({"0/observation": TensorInfo("float32", (None, 2))}, {})})
    rows = [{"0/observation": np.full((1, 2), value, np.float32)} for value in range(7)]
    check_equivalence(Pair(OffAtSeven(), Values(), spec, SERVING), (3,), rows, joined=True)
    rows.append({"0/observation": np.full((1, 2), 7, np.float32)})
    with pytest.raises(Unequal, match="action: value is"):
        check_equivalence(Pair(OffAtSeven(), Values(), spec, SERVING), (3,), rows, joined=True)


def test_what_is_drawn_once_for_a_call_is_not_joined():
    engine = Noting()

    def noise(_: str, rows: int, __: int) -> Arrays:
        return {CALL_NORMAL: np.zeros(rows, np.float32)}

    check_equivalence(Pair(Values(), engine, SPEC, SERVING, noise, Values()), (3,), joined=True)
    assert engine.drawn == {3}
    assert {len(call) for call in engine.calls} == {3}


@pytest.mark.parametrize("compiled", [Values, Off])
def test_rows_beside_one_that_is_refused_are_compared(compiled):
    class Gentle(Values):
        def values(self, observation):
            if np.abs(observation).max() > 100:
                raise InputRefused("no")
            return super().values(observation)

    class Both(Gentle, compiled):
        pass

    judged = contextlib.nullcontext() if compiled is Values else pytest.raises(Unequal, match="action: value is")
    with judged:
        check_equivalence(Pair(Both(), Gentle(), SPEC, SERVING), (3,), joined=True)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (Off(), "action: value is .* for a probe input, TensorFlow says"),
        (Swapped(), "action: action is [01] for a probe input, TensorFlow says [01]"),
        (Frozen(), "action: "),
        (Unsteady(), "two calls"),
        (Neighbours(), "action: value is"),
        (Doubles(), "value is float64"),
        (Nameless(), r"the outputs are \['action'\]"),
        (Stubborn(), "LiteRT refuses a probe input"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Values) else "",
)
@WAYS
def test_engine_that_errs_is_unequal(engine, says, how):
    with pytest.raises(Unequal, match=says):
        check_equivalence(Pair(engine, Values(), SPEC, SERVING), **how)


def test_engine_that_answers_what_tensorflow_refuses_is_unequal():
    with pytest.raises(Unequal, match="TensorFlow refuses"):
        check_equivalence(Pair(Values(), Stubborn(), SPEC, SERVING))


def test_noise_as_an_input_may_not_make_it_refuse_more():
    def noise(_: str, rows: int, __: int) -> Arrays:
        return {"noise/uniform": np.zeros((rows, 1), np.float32)}

    check_equivalence(Pair(Stubborn(), Stubborn(), SPEC, SERVING, noise, Stubborn()))
    with pytest.raises(Unequal, match="with its noise as an input it refuses what TensorFlow answers"):
        check_equivalence(Pair(Stubborn(), Stubborn(), SPEC, SERVING, noise, Values()))


def test_both_may_refuse():
    check_equivalence(Pair(Stubborn(), Stubborn(), SPEC, SERVING))


def test_initial_states_are_compared():
    spec = replace(policy_spec(OBSERVATION), initial_state=(Leaf("0", "float32", (2,)),))
    with pytest.raises(Unequal, match="get_initial_state: row 0"):
        check_equivalence(Pair(Awake(), Asleep(), spec, SERVING))


def test_every_function_that_the_policy_has_is_compared():
    class OffWhenGreedy(Values):
        def run(self, function, inputs):
            return (Off() if function == "greedy" else Values()).run("", inputs)

    serving = replace(SERVING, signatures={"greedy": Signature({}, {})})
    with pytest.raises(Unequal, match="greedy: value"):
        check_equivalence(Pair(OffWhenGreedy(), Values(), SPEC, serving))


def test_sample_gets_noise():
    class Sampling(Values):
        seen = 0

        def run(self, function, inputs):
            if function == "sample":
                assert inputs["noise/uniform"].shape == (len(inputs["0/observation"]), 2)
                self.seen += 1
            return super().run(function, inputs)

    engine = Sampling()
    serving = replace(SERVING, signatures={"sample": Signature({}, {})}, noise=Noise(2, 0))
    check_equivalence(Pair(engine, Values(), SPEC, serving))
    assert engine.seen


class Drawing(Values):
    """`action` draws; `sample` and the rest do not."""

    def __init__(self, seed: int, sample: Values | None = None, extra: bool = False) -> None:
        self.generator = np.random.default_rng(seed)
        self.sample = sample or Values()
        self.extra = extra

    def run(self, function, inputs):
        outputs = self.sample.run(function, inputs)
        if function == "action":
            outputs["value"] = self.generator.normal(size=outputs["value"].shape).astype(np.float32)
            outputs |= {"log_prob": outputs["value"]} if self.extra else {}
        return outputs


SAMPLING = replace(SERVING, signatures={"sample": Signature({}, {})}, noise=Noise(0, 1))


def test_where_action_draws_sample_is_compared():
    check_equivalence(Pair(Drawing(0), Drawing(1), SPEC, SAMPLING), draws=True)
    with pytest.raises(Unequal, match="sample: value"):
        check_equivalence(Pair(Drawing(0, Off()), Drawing(1), SPEC, SAMPLING), draws=True)
    with pytest.raises(Unequal, match="action: "):
        check_equivalence(Pair(Drawing(0), Drawing(1), SPEC, SAMPLING))


@pytest.mark.parametrize(
    ("engine", "says"),
    [(Drawing(0, extra=True), r"\['action', 'log_prob', 'value'\]"), (Stubborn(), "LiteRT refuses a probe input")],
)
def test_where_action_draws_it_has_the_outputs_of_tensorflows(engine, says):
    with pytest.raises(Unequal, match=says):
        check_equivalence(Pair(engine, Drawing(1), SPEC, SAMPLING), draws=True)


def test_where_action_draws_recorded_inputs_are_sampled():
    class OffFarOut(Values):
        def values(self, observation):
            return observation * np.where(observation > 1e9, np.float32(2), np.float32(1))

    spec = replace(SPEC, signatures={"action": Signature({"0/observation": TensorInfo("float32", (None, 2))}, {})})
    recorded = [{"0/observation": np.array([[1e10, 1.0]], np.float32)}]
    check_equivalence(Pair(Drawing(0), Drawing(1), spec, SAMPLING), recorded=recorded, draws=True)
    with pytest.raises(Unequal, match="sample: value"):
        check_equivalence(Pair(Drawing(0, OffFarOut()), Drawing(1), spec, SAMPLING), recorded=recorded, draws=True)


@pytest.mark.parametrize("kind", ["dqn-greedy", "dqn-lstm-greedy", "export-nested"])
def test_compiled_file_with_other_weights_is_unequal(compiled_policies: CompiledPolicies, kind, tmp_path):
    compiled = compiled_policies.compiled(kind)
    export, other = compiled.opened.export, compiled.opened.other()
    compiled.compiler.compile(other.engine, tmp_path / "other.tflite")
    engine = LiteRTEngine(tmp_path / "other.tflite", export.spec)
    with pytest.raises(Unequal):
        check_equivalence(Pair(engine, compiled.opened.engine, export.spec, export.serving))


class Centered(Values):
    """What a row gets depends on the others."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = np.float32(factor)

    def values(self, observation):
        return (observation - observation.mean(axis=0)) * self.factor


def test_rows_that_belong_together_are_compared_together():
    check_equivalence(Pair(Centered(1 + 1e-7), Centered(), SPEC, SERVING), apart=False)
    with pytest.raises(Unequal, match="action: "):
        check_equivalence(Pair(Centered(1.01), Centered(), SPEC, SERVING), apart=False)
    with pytest.raises(Unequal, match="action: "):
        check_equivalence(Pair(Values(), Centered(), SPEC, SERVING), apart=False)


LEAKY = Leaf("0", "float32", (2,))
STATEFUL = replace(
    SPEC,
    inputs={**SPEC.inputs, "policy_state": replace(LEAKY, name="1/0")},
    state=replace(LEAKY, name="state/0"),
    initial_state=LEAKY,
)


class Growing(Values):
    """Adds up what it sees; `factor` is what rounding does in one step."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = np.float32(factor)

    def run(self, function, inputs):
        return {"state/0": (inputs["1/0"] * np.float32(1.5) + inputs["0/observation"]) * self.factor}

    def initial_state(self, rows):
        return {"0": np.ones((rows, 2), np.float32)}


def test_episodes_within_the_tolerance_are_equal():
    check_equivalence(Pair(Growing(), Growing(), STATEFUL, SERVING))
    check_episodes(Pair(Growing(1 + 1e-7), Growing(), STATEFUL, SERVING), "action")


@pytest.mark.parametrize("factor", [1 + 2e-6, 1 - 5e-6])
def test_rounding_that_grows_when_the_state_is_fed_back_is_unequal(factor):
    check_episodes(Pair(Growing(factor), Growing(), STATEFUL, SERVING), "action", steps=1)
    with pytest.raises(Unequal, match=r"action: state/0 differs by .* at step \d+ of an episode"):
        check_equivalence(Pair(Growing(factor), Growing(), STATEFUL, SERVING))


def test_each_engine_gets_its_own_state_back():
    seen = []

    class Watched(Growing):
        def run(self, function, inputs):
            seen.append(inputs["1/0"].copy())
            return super().run(function, inputs)

    check_episodes(Pair(Watched(), Growing(), STATEFUL, SERVING), "action")
    assert len(seen) == STEPS == 24
    assert (seen[0] == 1).all()
    assert all((one != other).any() for one, other in itertools.pairwise(seen))


class Narrow(Values):
    """Sees the last 32 bits of whole numbers."""

    def __init__(self, bits: int = 64) -> None:
        self.bits = bits

    def run(self, function, inputs):
        numbers = inputs["0/observation"]
        return {"action": (numbers.astype(np.int32) if self.bits == 32 else numbers) == 2}


def test_whole_numbers_beyond_32_bits_are_tried():
    spec = policy_spec(Leaf("0/observation", "int64", (2,)))
    check_equivalence(Pair(Narrow(), Narrow(), spec, SERVING))
    with pytest.raises(Unequal):
        check_equivalence(Pair(Narrow(32), Narrow(), spec, SERVING))
