import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from app.api.openapi.document import document
from app.api.openapi.schemas import policy_schemas
from app.errors import DoesNotFit
from app.inference.service import Policy
from app.inputs.validate import InputValidator
from saver.artifact import DistributionInfo, Leaf, Noise, PolicySpec, ServingInfo, Signature
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

ALL_DTYPES = {
    dtype: Leaf(f"0/observation/{dtype}", dtype, shape)
    for dtype, shape in {
        "bool": (),
        "string": (2,),
        "int8": (),
        "uint64": (),
        "float16": (3,),
        "bfloat16": (),
        "float64": (2, 2),
    }.items()
}
BOUNDED = {
    "far": Leaf("0/observation/far", "float32", (2,), 5.0, 6.0),
    "each": Leaf("0/observation/each", "int32", (2,), [3, -9], [4, -7]),
    "below": Leaf("0/observation/below", "int64", (), maximum=-1),
    "huge": Leaf("0/observation/huge", "uint64", (), 2**63, 2**64 - 1),
    "free": Leaf("0/observation/free", "float32", (1,), float("-inf"), float("inf")),
}
SPECS = {
    "flat": policy_spec(),
    "nested": policy_spec(NESTED),
    "recurrent": policy_spec(state=LSTM_STATE),
    "unknown sizes": policy_spec(Leaf("0/observation", "float32", (None, 2))),
    "every dtype": policy_spec(ALL_DTYPES),
    "bounded": policy_spec(BOUNDED),
    "image": policy_spec(Leaf("0/observation", "uint8", (84, 84, 4), 0, 255)),
    "list": policy_spec((Leaf("0/observation/0", "float32", ()), Leaf("0/observation/1", "int32", (2,)))),
    "nested action": policy_spec(
        action={"move": Leaf("action/move", "float32", (2,)), "grip": (Leaf("action/grip/0", "int32", (), 0, 1),)},
        info={"value": Leaf("info/value", "float32", ())},
    ),
    "custom": custom_spec({"a": Leaf("a", "float32", (2,)), "b": (Leaf("b", "int32", ()),)}),
    "custom leaf": custom_spec(Leaf("sensors", "float32", (2,))),
    "custom tuple": custom_spec((Leaf("0/0", "float32", ()), Leaf("0/1", "int32", ()))),
}
NOTHING = ServingInfo({}, {}, Noise(0, 0), {"distribution": "it has none"})
ROWS = 8
DATA_ROUTES = ("action", "distribution", "get_initial_state")
SESSION_ROUTES = ("sessions", "sessions/{id}", "sessions/{id}/action")


def policy(spec: PolicySpec, name: str = "p", **more: Any) -> Policy:
    """A policy with the parts that the document is made from."""
    parts: dict[str, Any] = dict.fromkeys(Policy.__dataclass_fields__)
    parts |= {"name": name, "spec": spec, "serving": NOTHING, "reader": InputValidator(spec, rows_limit=ROWS)}
    return Policy(**parts | more)


def whole(*policies: Policy) -> dict[str, Any]:
    """The document; through JSON and back, as a client gets it."""
    return json.loads(json.dumps(document({"openapi": "3.1.0", "paths": {}}, policies), allow_nan=False))


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


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


def test_bounds_of_integers_are_part_of_the_schema():
    request = policy_schemas(policy(policy_spec(Leaf("0/observation", "uint8", (), 0, 255))))["request"]
    one, batch = request["properties"]["observation"]["anyOf"]
    assert (one["minimum"], one["maximum"]) == (0, 255)
    assert batch["items"]["maximum"] == 255


@pytest.mark.parametrize(
    ("leaf", "least", "most"),
    [
        (Leaf("0/observation", "int8", (2,)), -128, 127),
        (Leaf("0/observation", "int32", (2,), [0, -5], [7, 3]), -5, 7),
        (Leaf("0/observation", "uint64", (2,)), 0, 2**64 - 1),
        (Leaf("0/observation", "int16", (2,), maximum=10**9), -(2**15), 2**15 - 1),
    ],
)
def test_integers_are_bounded_by_their_dtype_too(leaf: Leaf, least: int, most: int) -> None:
    check = validator(whole(policy(policy_spec(leaf))), "p.request")
    read = InputValidator(policy_spec(leaf), rows_limit=ROWS).read
    for value in (least, most):
        check.validate({"observation": [value] * 2})
    for value in (least - 1, most + 1):
        assert not check.is_valid({"observation": [value] * 2})
        with pytest.raises(DoesNotFit):
            read({"observation": [value] * 2})


def test_step_types_are_bounded() -> None:
    check = validator(whole(policy(SPECS["flat"])), "p.request")
    found = [check.is_valid({"observation": [0] * 4, "step_type": value}) for value in (-1, 0, 2, 3)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize("strict", [True, False])
def test_bounds_of_floats_are_shown_where_they_are_enforced(strict: bool) -> None:
    reader = InputValidator(SPECS["bounded"], rows_limit=ROWS, strict_bounds=strict)
    described = whole(policy(SPECS["bounded"], reader=reader))
    body = described["components"]["schemas"]["p.request"]["example"]
    check = validator(described, "p.request")
    check.validate(body)
    outside = {"observation": {**body["observation"], "far": [4.5, 5.5]}}
    assert check.is_valid(outside) is not strict


def test_words_for_what_is_not_finite_are_shown_where_they_are_taken() -> None:
    for accepts in (True, False):
        reader = InputValidator(SPECS["flat"], rows_limit=ROWS, non_finite=accepts)
        check = validator(whole(policy(SPECS["flat"], reader=reader)), "p.request")
        assert check.is_valid({"observation": [0, 0, 0, "NaN"]}) is accepts


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


def test_what_no_schema_can_say_is_said_of_the_body() -> None:
    described = whole(policy(SPECS["flat"], body_limit_bytes=0))
    for path, limit in (("action", "67808 bytes as JSON"), ("get_initial_state", "65536 bytes as JSON")):
        assert limit in described["paths"][f"/v1/policies/p/{path}"]["post"]["requestBody"]["description"]
    for path in ("sessions", "sessions/{id}/action"):
        body = described["paths"][f"/v1/policies/p/{path}"]["post"]["requestBody"]
        assert f"at most {ROWS} rows" in body["description"]


def test_sessions_name_the_statuses_that_can_happen() -> None:
    paths = whole(policy(SPECS["flat"]))["paths"]
    asked = {"400", "401", "404", "409", "413", "415", "422", "429", "500", "501", "503", "504"}
    for root in ("/sessions", "/v1/policies/p/sessions"):
        assert set(paths[root]["post"]["responses"]) == {"201", *asked}
        assert set(paths[root + "/{id}/action"]["post"]["responses"]) == {"200", *asked}
        assert set(paths[root + "/{id}"]["get"]["responses"]) == {"200", "401", "404", "500", "501", "503"}
        ended = set(paths[root + "/{id}"]["delete"]["responses"])
        assert ended == {"204", "401", "404", "409", "422", "500", "501", "503"}


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


def test_every_policy_has_its_routes_and_the_first_is_the_default():
    described = whole(policy(SPECS["flat"], "first"), policy(SPECS["nested"], "second"))
    assert set(described["paths"]) == {
        *(f"/v1/policies/{name}/{route}" for name in ("first", "second") for route in (*DATA_ROUTES, *SESSION_ROUTES)),
        *(f"/{route}" for route in (*DATA_ROUTES, *SESSION_ROUTES)),
    }
    methods = ("post", "get", "delete")
    operations = [path[method] for path in described["paths"].values() for method in methods if method in path]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    default = described["paths"]["/action"]["post"]
    assert "first.request" in json.dumps(default["requestBody"])
    assert default["tags"] == ["first, the default policy"]
    begin = described["paths"]["/sessions"]["post"]
    assert "first.session.begin" in json.dumps(begin["requestBody"])
    assert (begin["operationId"], begin["tags"]) == ("default.session.begin", ["first, the default policy"])


def test_policies_without_time_steps_have_no_routes_of_sessions():
    described = whole(policy(SPECS["custom"], "custom"))
    assert not [path for path in described["paths"] if "sessions" in path]


def test_every_body_may_be_json_or_msgpack():
    for path in whole(policy(SPECS["flat"]))["paths"].values():
        if "post" not in path:
            continue
        answers = path["post"]["responses"]
        for bodies in (path["post"]["requestBody"], answers.get("200") or answers["201"]):
            assert list(bodies["content"]) == ["application/json", "application/msgpack"]
            binary = bodies["content"]["application/msgpack"]["schema"]
            assert binary["format"] == "binary"
            assert "docs/reference/binary.md" in binary["description"]


def test_every_reference_leads_somewhere():
    described = whole(*(policy(spec, f"p{i}") for i, spec in enumerate(SPECS.values())))

    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [found for item in part for found in references(item)]
        if not isinstance(part, dict):
            return []
        here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return here + references(list(part.values()))

    found = references(described)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in described["components"]["schemas"]


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


@pytest.mark.parametrize("admin", [True, False])
@pytest.mark.parametrize("data", [True, False])
def test_only_routes_that_ask_for_a_token_have_a_lock(admin: bool, data: bool) -> None:
    fixed = ("/admin/policies/{policy}/reload", "/v1/policies", "/livez", "/readyz", "/metrics")
    base = {"openapi": "3.1.0", "paths": {path: {"get": {}} for path in fixed}}
    found = document(base, [policy(SPECS["image"])], admin_token=admin, data_token=data)
    locked = {
        path for path, operations in found["paths"].items() if any("security" in part for part in operations.values())
    }
    admins = {path for path in found["paths"] if path.startswith("/admin")}
    datas = set(found["paths"]) - admins - {"/livez", "/readyz", "/metrics"}
    assert {"/action", "/v1/policies/p/action", "/v1/policies/p/sessions"} <= datas
    assert locked == (admins if admin else set()) | (datas if data else set())
    assert ("securitySchemes" in found["components"]) == (admin or data)
