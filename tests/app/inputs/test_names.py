"""Every field has a name in a request, whatever it is called; another server's form gets a hint."""

import json
from typing import Any

import pytest

from app.errors import DoesNotFit, NotJson, Problem
from app.inputs.names import Hint, asked_fields, names_of, request_name, top_level
from app.inputs.options import read_options
from app.inputs.validate import InputValidator
from app.wire.codecs import JSON
from saver.artifact import Leaf, PolicySpec
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec


def number(name: str) -> Leaf:
    return Leaf(name, "float32", ())


def reader_of(spec: PolicySpec) -> InputValidator:
    return InputValidator(spec, rows_limit=100, strict_bounds=False)


def read(spec: PolicySpec, fields: dict[str, Any]) -> Any:
    fields = dict(fields)
    read_options(fields.pop("options", {}))
    return reader_of(spec).read(fields)


def problems(spec: PolicySpec, fields: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(DoesNotFit) as caught:
        read(spec, fields)
    return caught.value.problems


@pytest.mark.parametrize("name", ["0/options", "arg_0_options"])
def test_a_field_named_options_is_reached_beside_the_options(name: str) -> None:
    spec = custom_spec({"options": number("options"), "speed": number("speed")})
    inputs = read(spec, {name: 0.5, "speed": 2, "options": {"seed": 7}})
    assert inputs.arrays["options"].tolist() == [0.5]
    assert inputs.arrays["speed"].tolist() == [2]


def test_refusal_of_it_as_options_says_its_name() -> None:
    spec = custom_spec({"options": number("options"), "speed": number("speed")})
    reader = reader_of(spec)
    with pytest.raises(DoesNotFit, match="own field of that name is 0/options"):
        reader.take_options({"options": 0.5, "speed": 2})
    [found] = problems(spec, {"speed": 2})
    assert (found.where, found.problem) == ("0/options", "is missing")


def test_a_nest_named_options_is_reached() -> None:
    spec = custom_spec({"options": {"a": number("options/a"), "b": number("options/b")}})
    for fields in ({"0/options": {"a": 1, "b": 2}}, {"options/a": 1, "options/b": 2}):
        assert read(spec, fields).arrays["options/b"].tolist() == [2]


def test_a_lone_input_named_options_is_reached() -> None:
    spec = custom_spec(number("options"))
    assert read(spec, {"0/options": 3}).arrays["options"].tolist() == [3]


def test_names_that_look_like_the_other_one_do_not_hide_it() -> None:
    spec = custom_spec({"options": number("options"), "0/options": number("0/options")})
    inputs = read(spec, {"0/options": 1, "0/0/options": 2})
    assert inputs.arrays["0/options"].tolist() == [1]
    assert inputs.arrays["options"].tolist() == [2]


NAMES = [
    "step",
    "id",
    "weights",
    "first",
    "run_id",
    "record",
    "policy_state",
    "observation",
    "reward",
    "a/b",
    "a.b",
    "",
    "\N{GREEK SMALL LETTER PHI}",
    'quo"te',
    "back\\slash",
    "instances",
    "inputs",
    "batch_size",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_in_a_custom_input_is_its_own(name: str) -> None:
    spec = custom_spec({name: number(name or "x"), "other": number("other")})
    inputs = read(spec, json.loads(json.dumps({name: 0.25, "other": 1})))
    assert inputs.arrays[name or "x"].tolist() == [0.25]


@pytest.mark.parametrize("name", [*NAMES, "options"])
def test_any_name_in_an_observation_is_its_own(name: str) -> None:
    spec = policy_spec({name: number(f"0/observation/{name}"), "other": number("0/observation/other")})
    inputs = read(spec, {"observation": {name: 0.25, "other": 1}, "options": {"seed": 1}})
    assert inputs.arrays[f"0/observation/{name}"].tolist() == [0.25]


def test_an_observation_whose_own_name_is_options_is_reached_by_its_path() -> None:
    """As exports without nest paths have it: the flattened name is the spec's own."""
    spec = policy_spec({"options": number("options"), "step": number("step")})
    inputs = read(spec, {"observation/options": 0.5, "observation/step": 1.5})
    assert (inputs.arrays["options"].tolist(), inputs.arrays["step"].tolist()) == ([0.5], [1.5])


def test_the_name_in_a_request_is_the_field_s_own_but_for_options() -> None:
    nests = top_level(custom_spec({"options": number("options"), "speed": number("speed")}))
    assert {top: request_name(top, nests) for top in nests} == {"options": "0/options", "speed": "speed"}
    assert names_of(nests)["speed"] is nests["speed"]


EXAMPLE = '{"observation": [0.1, 0.1, 0.1, 0.1]}'


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"instances": [[1, 2, 3, 4]]}, "TensorFlow Serving"),
        ({"signature_name": "action", "instances": [{"0/observation": [1, 2, 3, 4]}]}, "TensorFlow Serving"),
        ({"signature_name": "serving_default", "inputs": {"observation": [[1, 2, 3, 4]]}}, "TensorFlow Serving"),
        ({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}, "Open Inference"),
        ({"id": "7", "inputs": [], "outputs": []}, "Open Inference"),
        ({"dataframe_split": {"columns": [], "data": []}}, "MLflow"),
    ],
)
def test_another_server_s_form_gets_one_hint_with_an_example(fields: dict[str, Any], says: str) -> None:
    if next(iter(fields)) == "id":
        assert any(says in found.problem for found in problems(policy_spec(), fields))
        return
    [found] = problems(policy_spec(), fields)
    assert says in found.problem
    assert EXAMPLE in found.expected


@pytest.mark.parametrize("name", ["obs", "state", "observations", "input", "Obs", "x"])
def test_common_names_of_an_observation_get_a_hint(name: str) -> None:
    found = problems(policy_spec(), {name: [1, 2, 3, 4]})
    assert found[0].where == name
    assert f"did you mean observation, as in {EXAMPLE}" in found[0].expected


def test_a_hint_names_what_the_policy_takes() -> None:
    spec = custom_spec({"angle": number("angle")})
    assert "did you mean angle" in problems(spec, {"obs": 1})[0].expected
    assert '{"angle": 0.1}' in problems(spec, {"instances": [1]})[0].expected
    two = custom_spec({"angle": number("angle"), "options": number("options")})
    assert "did you mean" not in problems(two, {"obs": 1})[0].expected
    assert '"0/options": 0.1' in problems(two, {"instances": [1]})[0].expected


def test_a_policy_that_has_such_a_field_takes_it() -> None:
    spec = custom_spec({"instances": number("instances")})
    assert read(spec, {"instances": 1}).rows == 1


def test_hints_of_images_and_nests_are_short() -> None:
    for spec in (
        policy_spec(Leaf("0/observation", "uint8", (84, 84, 4))),
        policy_spec(NESTED),
        policy_spec(state=LSTM_STATE),
    ):
        hint = Hint(spec, {top: top for top in top_level(spec)})
        assert len(hint.example) < 450
        assert "observation" in hint.example


def test_a_bare_list_gets_an_example() -> None:
    hint = reader_of(policy_spec()).hint
    with pytest.raises(NotJson) as caught:
        JSON.decode(b"[0.1, 0.2, 0.3, 0.4]")
    assert caught.value.is_json
    assert EXAMPLE in str(hint.no_object(caught.value))


def test_the_input_of_an_export_without_time_steps_is_called_by_itsasked_fields() -> None:
    assert asked_fields(policy_spec()) == "observation"
    fields = {"speed": Leaf("0/speed", "float32", ()), "camera": Leaf("0/camera", "uint8", (2,))}
    assert sorted(asked_fields(custom_spec(fields)).split(", ")) == ["camera", "speed"]
