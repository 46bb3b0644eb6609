import msgspec
import numpy as np
import pytest

from app.errors import DoesNotFit, Problem
from app.inputs.defaults import FIRST, MID, Defaults
from app.inputs.options import read_options
from app.inputs.validate import Inputs, InputValidator
from saver.artifact import Leaf, PolicySpec
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

FLAT = policy_spec()
DEEP = policy_spec(NESTED)
RECURRENT = policy_spec(state=LSTM_STATE)
NO_NEST_PATHS = PolicySpec(
    inputs={
        "step_type": Leaf("step_type", "int32", ()),
        "reward": Leaf("reward", "float32", ()),
        "discount": Leaf("discount", "float32", ()),
        "observation": {"camera": Leaf("pixels", "uint8", (2,)), "speed": Leaf("velocity", "float32", ())},
    },
    action=Leaf("action", "int64", ()),
    state=(),
    info=(),
    initial_state=(),
    batch_size=None,
    takes_time_step=True,
    signatures={},
)
NESTED_VALUE = {"camera": [[1, 2], [3, 4]], "speed": 0.5, "joints": [[0.1, 0.2], 3]}
ROW = [0.1, 0.2, 0.3, 0.4]


def read(spec: PolicySpec, body: dict, *, rows_limit: int = 100, strict_bounds: bool = False) -> Inputs:
    """With the defaults filled in."""
    inputs = InputValidator(spec, rows_limit=rows_limit, strict_bounds=strict_bounds).read(body)
    initial = {} if inputs.needs_state else None
    return msgspec.structs.replace(inputs, arrays=Defaults(spec).complete(inputs.arrays, inputs.rows, initial))


def problems(spec: PolicySpec, body: dict, **limits) -> list[Problem]:
    with pytest.raises(DoesNotFit) as caught:
        read(spec, body, **limits)
    return list(caught.value.problems)


def wheres(spec: PolicySpec, body: dict, **limits) -> list[str]:
    return [problem.where for problem in problems(spec, body, **limits)]


# What may be left out


def test_observation_is_all_that_is_needed():
    inputs = read(FLAT, {"observation": ROW})
    assert (inputs.rows, inputs.batched, inputs.needs_state, inputs.outside_bounds) == (1, False, False, 0)
    assert {name: (a.tolist(), a.dtype.name) for name, a in inputs.arrays.items()} == {
        "0/observation": ([[np.float32(x).item() for x in ROW]], "float32"),
        "0/step_type": ([MID], "int32"),
        "0/reward": ([0.0], "float32"),
        "0/discount": ([1.0], "float32"),
    }


def test_defaults_have_as_many_rows_as_the_batch():
    inputs = read(FLAT, {"observation": [ROW] * 3, "reward": [1, 2, 3]})
    assert (inputs.rows, inputs.batched) == (3, True)
    assert inputs.arrays["0/step_type"].tolist() == [MID] * 3
    assert inputs.arrays["0/discount"].tolist() == [1.0] * 3
    assert inputs.arrays["0/reward"].tolist() == [1.0, 2.0, 3.0]


STATE = [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(
    ("body", "step_type", "needs_state"),
    [
        ({}, FIRST, True),
        ({"policy_state": STATE}, MID, False),
        ({"step_type": 1}, 1, True),
        ({"step_type": 2}, 2, True),
        ({"policy_state": STATE, "step_type": 0}, 0, False),
        ({"1/0": STATE[0], "1/1": STATE[1]}, MID, False),
    ],
)
def test_recurrent_policy_begins_an_episode_where_no_state_is_sent(body, step_type, needs_state):
    inputs = read(RECURRENT, {"observation": ROW} | body)
    assert inputs.arrays["0/step_type"].tolist() == [step_type]
    assert inputs.needs_state is needs_state
    assert ("1/0" in inputs.arrays) is not needs_state


def test_part_of_a_policy_state_is_refused():
    [problem] = problems(RECURRENT, {"observation": ROW, "1/0": [0.0] * 3})
    assert (problem.where, problem.problem) == ("policy_state.1", "is missing")
    assert "float32 of shape [3]" in problem.expected


@pytest.mark.parametrize("state", [[], {}, None])
def test_stateless_policy_takes_back_the_empty_state(state):
    assert not read(FLAT, {"observation": ROW, "policy_state": state}).needs_state


def test_arrays_stand_for_values_and_for_nothing_else():
    body = {"observation": np.array([ROW, ROW], np.float32), "reward": np.array([1, 2]), "discount": [1, 0.5]}
    inputs = read(FLAT, body)
    assert (inputs.rows, inputs.batched) == (2, True)
    assert inputs.arrays["0/reward"].tolist() == [1.0, 2.0]
    assert wheres(FLAT, {"observation": ROW, "policy_state": np.zeros(0)}) == ["policy_state"]
    assert wheres(DEEP, {"observation": np.zeros(3)})[0] == "observation"
    assert wheres(RECURRENT, {"observation": ROW, "policy_state": np.zeros((2, 3))})[0] == "policy_state"
    assert wheres(FLAT, {"observation": np.zeros((101, 4))}) == ["observation"]
    assert wheres(FLAT, {"observation": ROW, "step_type": np.array(3)}) == ["step_type"]
    for option in ("mode", "seed", "log_prob", "min_train_step", "timeout_ms"):
        with pytest.raises(DoesNotFit, match=f"options.{option}"):
            read_options({option: np.array([1, 2])})


def test_stateless_policy_refuses_a_state():
    assert wheres(FLAT, {"observation": ROW, "policy_state": [[0.0]]}) == ["policy_state"]


@pytest.mark.parametrize("spec", [FLAT, DEEP, RECURRENT])
def test_missing_observation_is_named_leaf_by_leaf(spec):
    found = problems(spec, {})
    names = [p.where for p in found]
    expected = ["observation"]
    if spec is DEEP:
        expected = [f"observation.{part}" for part in ("camera", "speed", "joints.0", "joints.1")]
    assert names == expected
    assert {p.problem for p in found} == {"is missing"}


# Names


@pytest.mark.parametrize(
    "names",
    [
        ("observation", "step_type", "reward", "discount", "policy_state"),
        ("0/observation", "0/step_type", "0/reward", "0/discount", None),
        ("arg_0_observation", "arg_0_step_type", "arg_0_reward", "arg_0_discount", None),
    ],
)
def test_every_spelling_of_a_field_means_the_same(names):
    observation, step_type, reward, discount, state = names
    body = {observation: ROW, step_type: 0, reward: 2, discount: 0.5}
    if state:
        body[state] = STATE
    else:
        body |= {"1/0": STATE[0], "arg_1_1": STATE[1]}
    arrays = read(RECURRENT, body).arrays
    assert arrays["0/step_type"].tolist() == [0]
    assert arrays["0/reward"].tolist() == [2.0]
    assert arrays["0/discount"].tolist() == [0.5]
    assert arrays["1/0"].tolist() == [STATE[0]]
    assert arrays["1/1"].tolist() == [STATE[1]]
    assert arrays["0/observation"].shape == (1, 4)


@pytest.mark.parametrize(
    "body",
    [
        {"observation": NESTED_VALUE},
        {
            "0/observation/camera": [[1, 2], [3, 4]],
            "0/observation/speed": 0.5,
            "0/observation/joints/0": [0.1, 0.2],
            "0/observation/joints/1": 3,
        },
        {
            "arg_0_observation_camera": [[1, 2], [3, 4]],
            "observation/speed": 0.5,
            "arg_0_observation_joints_0": [0.1, 0.2],
            "observation/joints/1": 3,
        },
        {"observation": {"camera": [[1, 2], [3, 4]], "joints": [[0.1, 0.2], 3]}, "0/observation/speed": 0.5},
    ],
    ids=["nested", "flattened", "other spellings", "mixed"],
)
def test_nested_observation_may_come_nested_or_flattened(body):
    arrays = read(DEEP, body).arrays
    assert arrays["0/observation/camera"].tolist() == [[[1, 2], [3, 4]]]
    assert arrays["0/observation/camera"].dtype == np.uint8
    assert arrays["0/observation/speed"].tolist() == [0.5]
    np.testing.assert_allclose(arrays["0/observation/joints/0"], [[0.1, 0.2]])
    assert arrays["0/observation/joints/1"].tolist() == [3]


@pytest.mark.parametrize(
    "body",
    [
        {"observation": {"camera": [1, 2], "speed": 1}},
        {"pixels": [1, 2], "velocity": 1},
        {"observation/camera": [1, 2], "velocity": 1},
    ],
)
def test_export_without_nest_paths_takes_the_names_of_its_specs(body):
    arrays = read(NO_NEST_PATHS, body).arrays
    assert arrays["pixels"].tolist() == [[1, 2]]
    assert arrays["velocity"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("spec", "body", "where", "other"),
    [
        (FLAT, {"observation": ROW, "0/observation": ROW}, "0/observation", "observation"),
        (FLAT, {"observation": ROW, "reward": 1, "arg_0_reward": 1}, "arg_0_reward", "reward"),
        (
            DEEP,
            {"0/observation/speed": 1.0, "observation": NESTED_VALUE},
            "observation.speed",
            "0/observation/speed",
        ),
    ],
)
def test_field_given_twice_is_refused(spec, body, where, other):
    [problem] = problems(spec, body)
    assert problem == Problem(where, f"is given twice, also as {other}", "one of the two")


def test_field_given_twice_is_refused_even_where_the_first_is_bad():
    assert wheres(FLAT, {"observation": "x", "0/observation": ROW}) == ["observation", "0/observation"]


@pytest.mark.parametrize(
    ("spec", "body", "where", "says"),
    [
        (FLAT, {"observation": ROW, "obs": 1}, "obs", "step_type, reward, discount, observation, options"),
        (FLAT, {"observation": ROW, "option": {}}, "option", "options"),
        (DEEP, {"observation": NESTED_VALUE | {"depth": 1}}, "observation.depth", "camera, speed, joints"),
        (DEEP, {"observation": NESTED_VALUE, "0/observation": 1}, "0/observation", "observation"),
    ],
)
def test_unknown_field_is_refused_with_the_names_there_are(spec, body, where, says):
    [problem] = problems(spec, body)
    assert problem.where == where
    assert problem.problem == "is no field of this policy"
    assert says in problem.expected


@pytest.mark.parametrize(
    ("value", "where", "expected"),
    [
        ([1, 2], "observation", "an object with camera, speed, joints"),
        (NESTED_VALUE | {"joints": {"0": 1}}, "observation.joints", "a list of 2 items"),
        (NESTED_VALUE | {"joints": [[0.1, 0.2]]}, "observation.joints", "a list of 2 items"),
        (NESTED_VALUE | {"joints": [[0.1, 0.2], 3, 3]}, "observation.joints", "a list of 2 items"),
    ],
)
def test_wrong_container_is_refused(value, where, expected):
    found = {p.where: p.expected for p in problems(DEEP, {"observation": value})}
    assert found[where] == expected


def test_every_problem_is_listed_in_the_order_of_the_request():
    body = {"nonsense": 1, "observation": [1, 2], "reward": "x", "step_type": 7, "discount": None}
    assert wheres(FLAT, body) == ["nonsense", "observation", "reward", "discount", "step_type"]


# One or a batch


@pytest.mark.parametrize(
    ("body", "where", "problem", "expected"),
    [
        ({"reward": 1.0}, "reward", "a single value", "a batch of 2 rows, as in observation"),
        ({"step_type": 1}, "step_type", "a single value", "a batch of 2 rows, as in observation"),
        ({"discount": 1}, "discount", "a single value", "a batch of 2 rows, as in observation"),
        ({"reward": [1.0]}, "reward", "a batch of 1 rows", "a batch of 2 rows, as in observation"),
        ({"reward": [1.0, 2.0, 3.0]}, "reward", "a batch of 3 rows", "a batch of 2 rows, as in observation"),
    ],
)
def test_fields_must_agree_on_the_rows(body, where, problem, expected):
    # The observation comes last here: it sets the rows all the same.
    assert problems(FLAT, body | {"observation": [ROW, ROW]}) == [Problem(where, problem, expected)]


def test_batch_beside_one_observation_is_refused():
    [problem] = problems(FLAT, {"observation": ROW, "reward": [1.0]})
    assert problem == Problem("reward", "a batch of 1 rows", "a single value, as in observation")


def test_leaves_of_one_observation_must_agree_on_the_rows():
    value = NESTED_VALUE | {"speed": [0.5, 0.5]}
    assert wheres(DEEP, {"observation": value}) == ["observation.speed"]


def test_state_of_another_batch_is_refused():
    assert wheres(RECURRENT, {"observation": [ROW], "policy_state": STATE}) == ["policy_state[0]", "policy_state[1]"]


def test_zero_rows_are_refused():
    spec = policy_spec(Leaf("0/observation", "float32", ()))
    assert problems(spec, {"observation": []}) == [Problem("observation", "a batch of zero rows", "at least one row")]


@pytest.mark.parametrize(("rows", "fits"), [(99, True), (100, True), (101, False)])
def test_rows_are_limited(rows, fits):
    body = {"observation": [ROW] * rows}
    if fits:
        assert read(FLAT, body, rows_limit=100).rows == rows
    else:
        [problem] = problems(FLAT, body, rows_limit=100)
        assert (problem.where, problem.problem) == ("observation", "101 rows")
        assert "100" in problem.expected


# Values


@pytest.mark.parametrize("step_type", [0, 1, 2])
def test_legal_step_types_pass(step_type):
    assert read(FLAT, {"observation": ROW, "step_type": step_type}).arrays["0/step_type"].tolist() == [step_type]


@pytest.mark.parametrize(
    ("body", "where", "came"),
    [
        ({"observation": ROW, "step_type": 7}, "step_type", "7"),
        ({"observation": ROW, "step_type": -1}, "step_type", "-1"),
        ({"observation": [ROW, ROW], "step_type": [1, 3]}, "step_type[1]", "3"),
    ],
)
def test_step_type_is_first_mid_or_last(body, where, came):
    assert problems(FLAT, body) == [Problem(where, came, "int32 from 0 to 2")]


BOUNDED = policy_spec(Leaf("0/observation", "int32", (2,), -3, 3))
PER_ELEMENT = policy_spec(Leaf("0/observation", "int32", (2,), [0, -5], [1, 5]))
LOW_ONLY = policy_spec(Leaf("0/observation", "int32", (2,), minimum=0))


@pytest.mark.parametrize(
    ("spec", "observation", "problem"),
    [
        (BOUNDED, [3, -3], None),
        (BOUNDED, [0, 4], Problem("observation[1]", "4", "int32 from -3 to 3")),
        (BOUNDED, [[0, 0], [-4, 9]], Problem("observation[1][0]", "-4", "int32 from -3 to 3")),
        (PER_ELEMENT, [1, 5], None),
        (PER_ELEMENT, [2, 0], Problem("observation[0]", "2", "int32 from 0 to 1")),
        (PER_ELEMENT, [[0, 0], [0, -6]], Problem("observation[1][1]", "-6", "int32 from -5 to 5")),
        (LOW_ONLY, [2**31 - 1, 0], None),
        (LOW_ONLY, [0, -1], Problem("observation[1]", "-1", "int32 from 0 to any")),
    ],
)
def test_integers_outside_their_bounds_are_refused(spec, observation, problem):
    if problem is None:
        read(spec, {"observation": observation})
    else:
        assert problems(spec, {"observation": observation}) == [problem]


FLOATS = policy_spec(Leaf("0/observation", "float32", (2,), [-1.0, 0.0], [1.0, 2.0]))


def test_floats_outside_their_bounds_pass_and_are_counted():
    inputs = read(FLOATS, {"observation": [[0.5, 1.0], [1.5, -0.5]], "discount": [1.0, 2.0]})
    assert inputs.outside_bounds == 3
    assert inputs.arrays["0/observation"].tolist() == [[0.5, 1.0], [1.5, -0.5]]


def test_strict_bounds_refuse_floats_outside():
    read(FLOATS, {"observation": [1.0, 2.0]}, strict_bounds=True)
    [problem] = problems(FLOATS, {"observation": [[0.5, 1.0], [0.5, 2.5]]}, strict_bounds=True)
    assert problem == Problem("observation[1][1]", "2.5", "float32 from 0.0 to 2.0")


def test_bound_that_float32_rounds_is_inside():
    bound = float(np.float32(4.8))
    spec = policy_spec(Leaf("0/observation", "float32", (1,), -bound, bound))
    assert read(spec, {"observation": [4.8]}, strict_bounds=True).outside_bounds == 0


def test_infinite_bounds_bound_nothing():
    spec = policy_spec(Leaf("0/observation", "float32", (1,), float("-inf"), float("inf")))
    assert read(spec, {"observation": [1e30]}, strict_bounds=True).outside_bounds == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    assert wheres(FLAT, {"observation": [0, 0, value, 0]}) == ["observation[2]"]


# Exports with an input spec of their own


@pytest.mark.parametrize(
    ("inputs", "body", "arrays"),
    [
        (
            {"x": Leaf("0/x", "float32", (2,)), "deep": {"y": Leaf("0/deep/y", "int32", ())}},
            {"x": [1, 2], "deep": {"y": 3}},
            {"0/x": [[1.0, 2.0]], "0/deep/y": [3]},
        ),
        ({"x": Leaf("0/x", "float32", (2,))}, {"0/x": [1, 2]}, {"0/x": [[1.0, 2.0]]}),
        (Leaf("sensors", "float32", (2,)), {"sensors": [1, 2]}, {"sensors": [[1.0, 2.0]]}),
        (Leaf("0", "float32", (2,)), {"0": [1, 2]}, {"0": [[1.0, 2.0]]}),
        (
            (Leaf("0/0", "float32", (2,)), Leaf("0/1", "int32", ())),
            {"0": [1, 2], "1": 3},
            {"0/0": [[1.0, 2.0]], "0/1": [3]},
        ),
        (
            (Leaf("0/0", "float32", (2,)), Leaf("0/1", "int32", ())),
            {"0/0": [1, 2], "arg_0_1": 3},
            {"0/0": [[1.0, 2.0]], "0/1": [3]},
        ),
    ],
    ids=["dict", "flattened", "leaf", "leaf by path", "tuple", "tuple, flattened"],
)
def test_custom_inputs_are_read_by_their_own_names(inputs, body, arrays):
    found = read(custom_spec(inputs), body)
    assert {name: array.tolist() for name, array in found.arrays.items()} == arrays
    assert (found.rows, found.needs_state) == (1, False)


def test_custom_inputs_have_no_defaults():
    spec = custom_spec({"reward": Leaf("0/reward", "float32", ()), "step_type": Leaf("0/step_type", "int32", ())})
    assert wheres(spec, {}) == ["reward", "step_type"]
    assert read(spec, {"reward": 1.0, "step_type": 7}).arrays["0/step_type"].tolist() == [7]


# States


def test_initial_state_goes_under_the_names_of_the_inputs():
    initial = {"0": np.zeros((2, 3)), "1": np.ones((2, 3))}
    named = RECURRENT.state_inputs(initial)
    assert set(named) == {"1/0", "1/1"}
    np.testing.assert_array_equal(named["1/1"], initial["1"])


@pytest.mark.parametrize(
    "spec", [FLAT, custom_spec(Leaf("0", "float32", ())), custom_spec((Leaf("0/0", "int32", ()),))]
)
def test_policy_without_state_input_takes_no_initial_state(spec):
    assert spec.state_inputs({}) == {}


def test_bounds_that_the_dtype_does_not_hold_by_itself_are_checked():
    reader = InputValidator(
        policy_spec(Leaf("0/observation", "int8", (2,), -128, 100)), rows_limit=9, strict_bounds=False
    )
    for value in (np.array([-128, 100], np.int8), [-128, 100]):
        assert reader.read({"observation": value}).arrays["0/observation"].tolist() == [[-128, 100]]
    for value in (np.array([0, 101], np.int8), [0, 101]):
        with pytest.raises(DoesNotFit, match=r"observation\[1\]: 101; expected int8 from -128 to 100"):
            reader.read({"observation": value})
