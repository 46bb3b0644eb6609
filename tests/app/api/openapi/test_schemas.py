"""The schemas of a policy's requests and answers are those of the server."""

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator, ValidationError

from app.api.openapi.schemas import policy_schemas
from app.inputs.validate import InputValidator
from saver.artifact import DistributionInfo, Leaf, Noise, ServingInfo, Signature
from tests.support.openapi import ROWS, SPECS, policy, validator, whole
from tests.support.specs import policy_spec


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_schema_is_one(spec):
    schemas = whole(policy(spec))["components"]["schemas"]
    assert {"Problem", "Options", "p.request", "p.action.answer", "p.get_initial_state.answer"} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "image"])
def test_example_fits_its_schema_and_the_server_takes_it(name):
    spec = SPECS[name]
    described = whole(policy(spec))
    example = described["components"]["schemas"]["p.request"]["example"]
    validator(described, "p.request").validate(example)
    InputValidator(spec, rows_limit=1, strict_bounds=True).read(example)


def test_observation_too_large_to_be_shown_has_no_example_rather_than_a_wrong_one():
    assert "example" not in policy_schemas(policy(SPECS["image"]))["request"]


def test_request_may_be_one_value_or_a_batch_by_friendly_or_flattened_names():
    described = whole(policy(SPECS["nested"]))
    one = {"camera": [[1, 2], [3, 4]], "speed": 0.5, "joints": [[0.1, 0.2], 3]}
    two = {"camera": [[[1, 2], [3, 4]]] * 2, "speed": [0.5] * 2, "joints": [[[0.1, 0.2]] * 2, [3, 3]]}
    check = validator(described, "p.request").validate
    check({"observation": one})
    check({"observation": two, "reward": [0, 1], "options": {"min_train_step": 7}})
    check({"0/observation/speed": 0.5})
    names = described["components"]["schemas"]["p.request"]["x-flattened-names"]
    assert names["0/observation/camera"] == "observation/camera"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"observation": [1, 2, 3]},
        {"observation": ["1", 2, 3, 4]},
        {"observation": [[[1, 2, 3, 4]]]},
        {"observation": [1, 2, 3, 4], "step_type": 0.5},
        {"observation": [1, 2, 3, 4], "options": {"mode": "random"}},
        {"observation": [1, 2, 3, 4], "options": {"temperature": 1}},
    ],
)
def test_request_schema_refuses_what_the_server_refuses(body):
    described = whole(policy(SPECS["flat"]))
    with pytest.raises(ValidationError):
        validator(described, "p.request").validate(body)


def test_rows_are_limited() -> None:
    described = whole(policy(SPECS["recurrent"]))
    check = validator(described, "p.request")
    check.validate({"observation": [[0] * 4] * ROWS})
    assert not check.is_valid({"observation": [[0] * 4] * (ROWS + 1)})
    check = validator(described, "p.session.step")
    check.validate({"observation": [[0] * 4] * ROWS, "first": [True] * ROWS})
    assert not check.is_valid({"observation": [[0] * 4] * ROWS, "first": [True] * (ROWS + 1)})
    assert not check.is_valid({"observation": [[0] * 4] * ROWS, "first": []})


def test_initial_states_are_limited_by_the_answer_too() -> None:
    large = (Leaf("1/0", "float32", (2**20,)),)
    reader = InputValidator(policy_spec(state=large), rows_limit=65_536)
    schemas = policy_schemas(policy(policy_spec(state=large), reader=reader))
    assert schemas["get_initial_state.request"]["properties"]["batch_size"]["maximum"] == 4


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("flat", {"action": 1, "version": "export", "train_step": 0}),
        ("flat", {"action": [1, 0, 1], "version": "7", "train_step": -1}),
        ("recurrent", {"action": 1, "policy_state": [[0.5] * 3, [1.5] * 3], "version": "7", "train_step": 7}),
        (
            "nested action",
            {
                "action": {"move": [[0.5, "NaN"]], "grip": [[1]]},
                "info": {"value": ["-Infinity"]},
                "version": "7",
                "train_step": 7,
            },
        ),
    ],
)
def test_answers_fit_their_schema(name, answer):
    check = validator(whole(policy(SPECS[name])), "p.action.answer")
    check.validate(answer)
    for key in answer:
        with pytest.raises(ValidationError):
            check.validate({k: v for k, v in answer.items() if k != key})


def test_distribution_names_its_families_and_parameters():
    infos = {
        "action/move": DistributionInfo("multivariate_normal_diag", ("loc", "scale_diag"), ("mode",)),
        "action/grip/0": DistributionInfo("categorical", ("logits", "probs"), ()),
    }
    serving = ServingInfo({"distribution": Signature({}, {})}, infos, Noise(0, 0), {})
    check = validator(whole(policy(SPECS["nested action"], serving=serving)), "p.distribution.answer")
    move = {"family": "multivariate_normal_diag", "parameters": {"loc": [0, 0], "scale_diag": [1, 1]}, "mode": [0, 0]}
    grip = {"family": "categorical", "parameters": {"logits": [0], "probs": [1]}}
    answer = {
        "distribution": {"move": move, "grip": [grip]},
        "info": {"value": 0.5},
        "version": "7",
        "train_step": 7,
    }
    check.validate(answer)
    for wrong in ({"move": move, "grip": [move]}, {"move": move}, {"move": move | {"parameters": {}}, "grip": [grip]}):
        with pytest.raises(ValidationError):
            check.validate(answer | {"distribution": wrong})


def test_policy_without_distribution_says_why():
    assert "it has none" in json.dumps(policy_schemas(policy(SPECS["flat"]))["distribution.answer"])


def test_schema_of_get_initial_state():
    described = whole(policy(SPECS["recurrent"]))
    request = validator(described, "p.get_initial_state.request")
    request.validate({})
    request.validate({"batch_size": 3})
    for wrong in ({"batch_size": 0}, {"batch_size": "3"}, {"rows": 3}):
        with pytest.raises(ValidationError):
            request.validate(wrong)
    validator(described, "p.get_initial_state.answer").validate({"policy_state": [[0.0] * 3, [0.0] * 3]})
    stateless = whole(policy(replace(SPECS["flat"])))
    validator(stateless, "p.get_initial_state.answer").validate({"policy_state": []})
