"""Predict requests of TensorFlow Serving beside the same requests of our own route; answers in its form."""

import base64
import copy
import functools
import json
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.batching.rule import Result
from app.dialects.tensorflow_serving import predict
from app.dialects.tensorflow_serving.answers import write
from app.dialects.tensorflow_serving.models import status, train_step_of
from app.dialects.tensorflow_serving.predict import PredictParser
from app.errors import DoesNotFit, Malformed, NotJson, Refusal, UnknownVersion
from app.inference.policy import Policy
from app.inference.request_parser import RequestParser
from app.inputs.validate import InputValidator
from app.wire.codecs import JSON
from app.wire.limits import SMALL_BYTES
from saver.artifact import Leaf, Noise, PolicySpec, ServingInfo, Signature, TensorInfo, leaves
from tests.support.request_bodies import SPECS, bodies
from tests.support.served_policy import policy_of
from tests.support.specs import LSTM_STATE, NESTED, policy_spec

LIMIT = 1000
FLAT = SPECS["flat"]
NOTHING = ServingInfo({}, {}, Noise(0, 0), {"sample": "no", "greedy": "no", "distribution": "no"})


def policy(spec: PolicySpec, non_finite: bool = False) -> Policy:
    action = Signature({}, {"action": TensorInfo("int64", (None,))})
    metrics = SimpleNamespace(outside_bounds=lambda count: None)
    spec = replace(spec, signatures={"action": action}, state=(), info=(), initial_state=())
    reader = InputValidator(spec, rows_limit=LIMIT, non_finite=non_finite)
    version = SimpleNamespace(version=SimpleNamespace(name="export", train_step=11, metadata={"n": 2**70}))
    versions = SimpleNamespace(active=version)
    return policy_of(spec, NOTHING, rows_limit=LIMIT, metrics=metrics, reader=reader, versions=versions)


@functools.cache
def parser_of(name: str) -> PredictParser:
    """Decoders take long to compile."""
    return parser(SPECS[name])


def parser(spec: PolicySpec, non_finite: bool = False) -> PredictParser:
    return PredictParser(RequestParser(LIMIT), policy(spec, non_finite))


def asked(spec: PolicySpec, body: Any, non_finite: bool = False) -> Any:
    """The job of a request, whichever way reads it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    by = parser_of("flat") if spec == FLAT and not non_finite else parser(spec, non_finite)
    found: Any = by.read(data)
    return found.job


def same(found: Any, wanted: Any) -> None:
    assert (found.function, found.rows, found.needs_state) == (wanted.function, wanted.rows, wanted.needs_state)
    assert found.inputs.keys() == wanted.inputs.keys()
    for name, array in wanted.inputs.items():
        assert found.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(found.inputs[name], array)


def flattened(nest: Any, value: Any) -> dict[str, Any]:
    """The leaves of a value by flattened name."""
    if isinstance(nest, Leaf):
        return {nest.name: value}
    pairs = [(nest[key], value[key]) for key in (nest if isinstance(nest, dict) else range(len(nest))) if key in value
             or not isinstance(nest, dict)]  # fmt: skip
    return {name: found for child, part in pairs for name, found in flattened(child, part).items()}


def requests(name: str, count: int) -> Any:
    """Columns of ordinary batches of a spec, and the body with which our own route is asked the same."""
    spec, draw = SPECS[name], random.Random(name)
    while count:
        own = bodies(spec, draw)
        own.pop("options", None)
        columns = flattened(spec.inputs, own)
        ranks = {leaf.name: len(leaf.shape) for _, leaf in leaves(spec.inputs)}
        if np.ndim(next(iter(columns.values()))) == ranks[next(iter(columns))]:
            continue  # a single value
        count -= 1
        yield spec, columns, json.dumps(own).encode()


def in_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("name", SPECS)
def test_rows_and_columns_are_read_as_our_own_route_reads_them(name: str) -> None:
    for _, columns, own in requests(name, 25):
        found = parser_of(name)
        wanted = RequestParser(LIMIT).readers["action"](found.policy, JSON, own).job
        for body in (
            {"inputs": columns},
            {"instances": in_rows(columns)},
            {"signature_name": "action", "inputs": columns},
            {"signature_name": "serving_default", "instances": in_rows(columns)},
            {"instances": in_rows(columns), "whatever": [1, {"else": 2}]},
        ):
            same(found.read(json.dumps(body).encode()).job, wanted)


@pytest.mark.parametrize("name", ["flat", "image", "number", "recurrent"])
def test_the_only_input_needs_no_name(name: str) -> None:
    found = parser_of(name)
    for _, columns, _ in requests(name, 10):
        values = columns["0/observation"]
        wanted = (
            RequestParser(LIMIT).readers["action"](found.policy, JSON, json.dumps({"observation": values}).encode()).job
        )
        for field in ("instances", "inputs"):
            same(found.read(json.dumps({field: values}).encode()).job, wanted)


def large(by: PredictParser, body: Any) -> Any:
    data = json.dumps(body).encode()
    assert len(data) > SMALL_BYTES
    return by.large(data).job


@pytest.mark.parametrize("name", ["nested", "recurrent", "image", "flat"])
def test_large_bodies_are_read_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece, as bodies beyond two megabytes are."""
    monkeypatch.setattr(predict, "SHORT_BODY_BYTES", 0)
    found = parser_of(name)
    for _, columns, _ in requests(name, 3):
        most = {key: (value * LIMIT)[:LIMIT] for key, value in columns.items()}
        wanted: Any = found.read(json.dumps({"inputs": most}).encode())
        same(large(found, {"inputs": most, "filling": " " * SMALL_BYTES}), wanted.job)
        same(large(found, {"instances": in_rows(most), "filling": " " * SMALL_BYTES}), wanted.job)


def test_large_rows_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them longer than what is read at once."""
    monkeypatch.setattr(predict, "SHORT_BODY_BYTES", 0)
    spec = policy_spec({"image": Leaf("0/observation/image", "uint8", (300, 300)), "n": Leaf("n", "float32", ())})
    rows = [{"0/observation/image": [[i + j & 255 for j in range(300)] for i in range(300)], "n": k} for k in range(5)]
    found = parser(spec)
    same(large(found, {"instances": rows}), asked(spec, {"instances": rows}))
    wrong = [*rows[:3], {**rows[3], "n": [1]}, rows[4]]
    with pytest.raises(DoesNotFit, match=r"instances\[3:\]"):
        large(found, {"instances": wrong})
    with pytest.raises(DoesNotFit, match="at most 1000 rows"):
        large(parser_of("flat"), {"instances": [{"0/observation": [0.0] * 4}] * 4000})


def test_words_for_numbers_that_are_not_finite_are_read_where_the_server_takes_them() -> None:
    body = b'{"instances": [[NaN, Infinity, -Infinity, 1]]}'
    found = asked(policy_spec(), body, non_finite=True).inputs["0/observation"]
    np.testing.assert_array_equal(found, np.float32([[np.nan, np.inf, -np.inf, 1]]))
    with pytest.raises(DoesNotFit, match="NaN; expected a finite number"):
        asked(policy_spec(), body)


TEXT = policy_spec(Leaf("0/observation", "string", (2,)))


@pytest.mark.parametrize("long", [False, True])
def test_bytes_come_in_base64(long: bool) -> None:
    raw = b"\xff\x00\x01" * (40_000 if long else 1)
    coded = {"b64": base64.b64encode(raw).decode()}
    bodies = [
        {"instances": [["a", coded]]},
        {"instances": [{"0/observation": ["a", coded]}]},
        {"inputs": [["a", coded]]},
        {"inputs": {"observation": [["a", coded]]}},
    ]
    for body in bodies:
        found = parser(TEXT).large(json.dumps(body).encode()) if long else None
        job = found.job if found is not None else asked(TEXT, body)
        assert job.inputs["0/observation"].tolist() == [["a", raw]]


def test_what_is_no_base64_is_refused() -> None:
    for text in ("*", "é", "a", "====="):
        with pytest.raises(DoesNotFit, match="base64"):
            asked(TEXT, {"instances": [["a", {"b64": text}]]})
    with pytest.raises(DoesNotFit):
        asked(policy_spec(), {"instances": [{"b64": "AAAA"}]})


ROW = [0.1, 0.2, 0.3, 0.4]
REFUSED = [
    ([], "the body is a JSON array"),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"signature_name": "action"}, "Missing 'inputs' or 'instances' key"),
    ({"signature_name": 3, "instances": [ROW]}, "'signature_name' key must be a string value"),
    ({"signature_name": "x", "instances": [ROW]}, 'Serving signature name: "x" not found in signature def'),
    ({"instances": [ROW], "inputs": [ROW]}, "expecting only one of 'inputs' or 'instances' keys"),
    ({"instances": ROW}, "expected a batch"),
    ({"instances": {"0/observation": [ROW]}}, "expected a list of rows"),
    ({"instances": None}, "expected a list of rows"),
    ({"instances": []}, "zero rows"),
    ({"inputs": []}, "observation"),
    ({"inputs": None}, "observation: null"),
    ({"inputs": {}}, "0/observation|observation: is missing"),
    ({"inputs": {"0/observation": ROW}}, "expected a batch"),
    ({"inputs": {"0/observation": [ROW], "0/reward": [1, 2]}}, "2 rows"),
    ({"inputs": {"0/observation": [ROW], "0/reward": 1}}, "0/reward"),
    ({"inputs": {"0/observation": [ROW], "options": {"seed": 1}}}, "options: is no field"),
    ({"inputs": {"0/observation": [ROW], "x": [1]}}, "x: is no field"),
    ({"inputs": {"0/observation": [ROW], "0/step_type": [3]}}, "0/step_type"),
    ({"instances": [ROW, {"0/observation": ROW}]}, "rows are objects"),
    ({"instances": [{"0/observation": ROW}, ROW]}, r"instances\[1\]"),
    ({"instances": [{"0/observation": ROW}, {"0/reward": 1}]}, r"instances\[1\]: has 0/reward"),
    ({"instances": [{"0/observation": ROW}, {}]}, r"instances\[1\]: has none"),
    ({"instances": [{}]}, "0/observation|observation: is missing"),
    ({"instances": [{"0/observation": [ROW, ROW]}]}, "0/observation"),
    ({"instances": [ROW, ROW[:3]]}, r"observation\[1\]: 3 items"),
    ({"instances": [["a", "b", "c", "d"]]}, "the string 'a'"),
    ({"instances": [ROW], "options": {"sead": 1}}, "options.sead"),
    ({"instances": [ROW], "options": 3}, "options: 3"),
    ({"signature_name": "get_initial_state", "inputs": {"batch_size": [2]}}, "an integer from 1 to"),
    ({"signature_name": "get_initial_state", "inputs": {"batch_size": 10**40}}, "an integer from 1 to"),
    ({"signature_name": "get_initial_state", "inputs": {"batch_size": True}}, "an integer from 1 to"),
    ({"signature_name": "get_initial_state", "inputs": {"batch_size": 1, "x": 1}}, "an integer from 1 to"),
    ({"signature_name": "get_initial_state", "inputs": {}}, "an integer from 1 to"),
    ({"signature_name": "get_initial_state", "instances": [2]}, "takes no rows"),
    ({"signature_name": "get_train_step", "instances": [{}]}, "takes no rows"),
    ({"signature_name": "get_train_step", "inputs": {"x": 1}}, "takes no inputs"),
    ({"signature_name": "get_metadata", "inputs": 3}, "takes no inputs"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_is_no_predict_request_is_refused(body: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        asked(policy_spec(), body)
    assert isinstance(refused.value, DoesNotFit | Malformed | NotJson)


def test_several_inputs_need_names() -> None:
    with pytest.raises(DoesNotFit, match="inputs by name, of 0/step_type"):
        asked(policy_spec(NESTED), {"instances": [ROW]})


@pytest.mark.parametrize("name", SPECS)
def test_whatever_is_read_or_refused_is_so_by_both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies with something changed anywhere: the compiled decoders take nothing that the slow way refuses."""
    draw = random.Random(name)
    quick, slow = parser_of(name), copy.copy(parser_of(name))
    monkeypatch.setattr(slow, "_read_usual", lambda *_: None)
    taken = 0
    for _, columns, _ in requests(name, 40):
        for body in (
            {"inputs": columns},
            {"instances": in_rows(columns)[:1]},
            {"instances": columns.get("0/observation")},
        ):
            data = bytearray(json.dumps(body).encode())
            for _ in range(4):
                found, wanted = outcome(quick, bytes(data)), outcome(slow, bytes(data))
                assert (found is None) == (wanted is None), bytes(data)
                if found is not None:
                    same(found, wanted)
                    taken += 1
                place = draw.randrange(len(data))
                data[place : place + draw.randint(0, 2)] = draw.choice(
                    [
                        b"",
                        b"1",
                        b"-",
                        b"e9",
                        b"[",
                        b"]",
                        b",",
                        b'"',
                        b"{",
                        b"}",
                        b"null",
                        b"1e39",
                        b"[[",
                        b'"options":{},',
                    ]
                )
    assert taken > 40


def outcome(by: PredictParser, body: bytes) -> Any:
    try:
        return by.read(body).job
    except Refusal:
        return None


def test_other_weights_than_those_asked_for_do_not_answer() -> None:
    request: Any = parser(policy_spec()).read(json.dumps({"instances": [ROW]}).encode(), train_step=11)
    result = Result({"action": np.array([1])}, "export", 11)
    assert request.answer(result, JSON).body == b'{"predictions":[1]}'
    with pytest.raises(UnknownVersion, match=r"Servable not found for request: Specific\(p, 11\)"):
        request.answer(replace_step(result, 12), JSON)


def replace_step(result: Result, train_step: int) -> Result:
    return Result(result.outputs, "0000000012", train_step)


def test_train_step_and_metadata_are_answered_at_once() -> None:
    for name, body in (("get_train_step", b'{"outputs":11}'), ("get_metadata", b'{"outputs":1180591620717411303424}')):
        for inputs in ({}, {"inputs": {}}, {"inputs": []}):
            found: Any = parser(policy_spec()).read(json.dumps({"signature_name": name, **inputs}).encode())
            assert found.body.body == body
            assert b"policy-train-step: 11" in found.body.head


# Answers.

F32 = np.float32([[0.1, -2.0], [1e-30, 3e38]])


@pytest.mark.parametrize(
    ("outputs", "rows", "columns"),
    [
        ({"a": np.int64([1, 2])}, "[1,2]", "[1,2]"),
        ({"a": F32}, "[[0.1,-2.0],[1e-30,3e+38]]", "[[0.1,-2.0],[1e-30,3e+38]]"),
        (
            {"a": np.array([True, False]), "state/0": F32},
            '[{"a":true,"state/0":[0.1,-2.0]},{"a":false,"state/0":[1e-30,3e+38]}]',
            '{"a":[true,false],"state/0":[[0.1,-2.0],[1e-30,3e+38]]}',
        ),
        ({"a": np.float64([np.nan, np.inf, -np.inf, 0.5])}, "[NaN,Infinity,-Infinity,0.5]", None),
        ({"a": np.float32([np.nan]), "b": np.float32([[0.5]])}, '[{"a":NaN,"b":[0.5]}]', '{"a":[NaN],"b":[[0.5]]}'),
        ({"a": np.array(["x,y", 'NaN"'], object)}, '["x,y","NaN\\""]', None),
        ({"a": np.array(["x,y", "z"], object), "b": np.uint8([1, 2])}, '[{"a":"x,y","b":1},{"a":"z","b":2}]', None),
        ({"a_bytes": np.array([b"\xff"], object)}, '[{"b64":"/w=="}]', None),
        ({"a": np.float16([0.1]), 'q"': np.zeros((1, 0), np.float32)}, '[{"a":0.099975586,"q\\"":[]}]', None),
        ({"a": np.asfortranarray(F32)}, "[[0.1,-2.0],[1e-30,3e+38]]", None),
    ],
)  # fmt: skip
def test_answers_are_written_in_rows_and_in_columns(outputs: Any, rows: str, columns: str | None) -> None:
    assert write(outputs, True).decode() == f'{{"predictions":{rows}}}'
    if columns is not None:
        assert write(outputs, False).decode() == f'{{"outputs":{columns}}}'


def test_the_state_of_each_version_is_shown() -> None:
    seen = [
        {"version": "c", "train_step": 30, "state": "found", "reason": ""},
        {"version": "b", "train_step": 20, "state": "active", "reason": ""},
        {"version": "b2", "train_step": 20, "state": "refused", "reason": "NaN in it"},
        {"version": "a", "train_step": 10, "state": "draining", "reason": ""},
        {"version": "0", "train_step": 5, "state": "refused", "reason": "NaN in it"},
        {"version": "-", "train_step": 4, "state": "released", "reason": ""},
    ]
    shown = status("m", seen, None)["model_version_status"]
    assert [(one["version"], one["state"]) for one in shown] == [("20", "AVAILABLE"), ("10", "UNLOADING")]
    ((refused,),) = status("m", seen, 5).values()
    assert refused == {
        "version": "5",
        "state": "END",
        "status": {"error_code": "FAILED_PRECONDITION", "error_message": "NaN in it"},
    }
    for step, state in ((30, "START"), (20, "AVAILABLE"), (4, "END")):
        assert status("m", seen, step)["model_version_status"][0]["state"] == state
    with pytest.raises(UnknownVersion, match="Could not find version 6 of model m"):
        status("m", seen, 6)


def test_versions_are_integers_of_64_bits_and_latest_the_only_label() -> None:
    assert train_step_of("", "") is None
    assert train_step_of("", "latest") is None
    assert train_step_of("0000000700", "") == 700
    assert train_step_of(str(2**63 - 1), "") == 2**63 - 1
    for version, label in ((str(2**63), ""), ("9" * 5000, ""), ("", "stable")):
        with pytest.raises(Malformed):
            train_step_of(version, label)


STATEFUL = policy_spec(state=LSTM_STATE)


def test_state_that_is_only_half_given_is_refused() -> None:
    columns = {"0/observation": [ROW], "1/0": [[0.0] * 3]}
    for body in ({"inputs": columns}, {"instances": in_rows(columns)}):
        with pytest.raises(DoesNotFit, match="is missing"):
            asked(STATEFUL, body)
