"""Bodies of the Open Inference Protocol: a kind of requests that is known is read as one that is not; or not at all."""

import json
import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from app.api.models import SequenceCall, ServedModel, model_of_path
from app.batching.rule import Result
from app.dialects.calls import Reply
from app.dialects.open_inference import DATATYPES, Model
from app.errors import DoesNotFit, PolicyServerError, Unsupported
from app.inference.request_parser import RequestParser
from app.inputs.arrays import ArrayReader
from app.inputs.validate import InputValidator
from app.wire.codecs import JSON
from saver.artifact import Leaf, Nest, Noise, PolicySpec, ServingInfo, Signature, TensorInfo
from tests.support.served_policy import policy_of
from tests.support.specs import FLOATS_4, policy_spec

ACTION: Any = {"action": Signature({}, {"action": TensorInfo("int64", (None,))})}
SERVING = ServingInfo({}, {}, Noise(0, 0), {"distribution": "none"})
NUMBERS = (
    "0",
    "-0",
    "-0.0",
    "1",
    "0.5",
    "1e-400",
    "4.9e-324",
    "255",
    "256",
    "3.4e38",
    "3.5e38",
    "1e400",
    "NaN",
    '"x"',
    "null",
    "true",
)


class _Counts:
    def outside_bounds(self, _: int) -> None: ...


class _Service:
    parser = RequestParser(8)


def served(observation: Nest = FLOATS_4, **more: Any) -> ServedModel:
    spec: PolicySpec = policy_spec(observation, signatures=ACTION, **more)
    policy = policy_of(spec, SERVING, rows_limit=8, metrics=_Counts())
    return ServedModel(Model.of(policy, "action"), _Service(), None)  # type: ignore[arg-type]


def outcome(model: ServedModel, body: Any, length: int | None) -> Any:
    """What the policy is asked, or the refusal."""
    try:
        request: Any = model._read(length, None, body)
    except PolicyServerError as error:
        return type(error), str(error)
    arrays = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in request.job.inputs.items()}
    return arrays, request.job.rows, request.job.needs_state, request.job.function


def as_json(numbers: list[str], nested: bool = False) -> bytes:
    text = ", ".join(numbers)
    data = f"[[{text}]]" if nested else f"[{text}]"
    return f'{{"inputs": [{{"name": "0/observation", "shape": [1, 4], "datatype": "FP32", "data": {data}}}]}}'.encode()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_known_json_are_read_like_those_of_any(number: str, nested: bool) -> None:
    known, body = served(), as_json(["1", number, "0.25", number], nested)
    outcome(known, as_json(["1", "2", "3", "4"], nested), None)
    assert known._reader._known
    assert outcome(known, body, None) == outcome(served(), body, None)


@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, float("nan"), float("inf"), 3e38, 1e-45])
def test_numbers_of_known_raw_tensors_are_read_like_those_of_any(number: float) -> None:
    text = json.dumps(
        {
            "inputs": [
                {"name": "0/observation", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": 32}}
            ]
        }
    ).encode()
    known = served()
    outcome(known, text + bytes(32), len(text))
    assert known._reader._known
    body = text + struct.pack("<8f", *[1.0, number] * 4)
    assert outcome(known, body, len(text)) == outcome(served(), body, len(text))
    for wrong in (body[:-1], body + b"x", text):
        assert outcome(known, wrong, len(text)) == outcome(served(), wrong, len(text))


@pytest.mark.parametrize(
    "body",
    [
        as_json(["1", "2", "3"]),
        as_json(["1", "2", "3", "4", "5"]),
        as_json(["[1, 2]", "[3, 4]"]),
        as_json(["1", "2", "3", "4"]).replace(b"]}]}", b'], "parameters": {"x": 1}}]}'),
        as_json(["1", "2", "3", "4"]).replace(b"]}]}", b'], "data": [1]}]}'),
        as_json(["1", "2", "3", "4"]).replace(b"}]}", b"}]} x"),
    ],
)
def test_what_only_looks_like_a_known_request_is_not_taken_for_one(body: bytes) -> None:
    known = served()
    outcome(known, as_json(["1", "2", "3", "4"]), None)
    assert outcome(known, body, None) == outcome(served(), body, None)


@pytest.mark.parametrize(
    "form",
    [
        '"parameters": {"data": %(other)s}, "data": %(data)s',
        '"parameters":{"data":%(other)s},"data":%(data)s',
        '"parameters":{"data":%(other)s},"data" : %(data)s',
        '"parameters":{"data":%(other)s},"\\u0064ata":%(data)s',
        '"data":%(other)s,"data":%(data)s',
        '"x":"\\"data\\":","parameters":{"data":%(other)s},"data":%(data)s',
    ],
)
def test_numbers_elsewhere_under_the_name_of_the_data_are_not_taken_for_them(form: str) -> None:
    """In the first request both are alike: which of them is the data cannot be seen by their numbers."""

    def body(other: str, data: str) -> bytes:
        text = form % {"other": other, "data": data}
        return f'{{"inputs":[{{"name":"0/observation","shape":[1,4],"datatype":"FP32",{text}}}]}}'.encode()

    known = served()
    outcome(known, body("[1,2,3,4]", "[1,2,3,4]"), None)
    later = body("[5,6,7,8]", "[1,2,3,4]"), body("[1,2,3,4]", "[5,6,7,8]")
    for each in later:
        assert outcome(known, each, None) == outcome(served(), each, None)


@pytest.mark.parametrize(
    ("observation", "spaces", "is_read"),
    [(FLOATS_4, 0, True), (FLOATS_4, 70_000, False), (Leaf("0/observation", "string", (1,)), 0, False)],
)
def test_only_numbers_behind_little_json_are_read_while_others_wait(
    observation: Leaf, spaces: int, is_read: bool
) -> None:
    """The header with the JSON's length says nothing of what follows it: that may be all JSON, or strings."""
    tensor = {"name": "0/observation", "shape": [1, *observation.shape], "datatype": DATATYPES[observation.dtype]}
    data = struct.pack("<4f", 1, 2, 3, 4) if observation is FLOATS_4 else b"\5\0\0\0north"
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode() + b" " * spaces
    found = served(observation)._at_once(len(text), None, text + data)
    assert (found is not None) == is_read


@pytest.mark.parametrize("name", ["nope", "state/0", "log_prob"])
def test_a_step_of_a_sequence_that_wants_what_is_not_there_is_refused_before_it_is_taken(name: str) -> None:
    recurrent = served(state=(Leaf("1/0", "float32", (3,)),))

    def step(*outputs: str) -> bytes:
        wanted = json.dumps([{"name": output} for output in outputs])
        more = f'{{"parameters": {{"sequence_id": "a"}}, "outputs": {wanted}, "inputs"'
        return as_json(["1", "2", "3", "4"]).replace(b'{"inputs"', more.encode())

    assert isinstance(recurrent._read(None, None, step()), SequenceCall)
    assert isinstance(recurrent._read(None, None, step("action")), SequenceCall)
    with pytest.raises((DoesNotFit, Unsupported), match=name):
        recurrent._read(None, None, step("action", name))


def test_requests_with_an_id_or_parameters_of_their_own_keep_them() -> None:
    model = served()
    for id_ in ("a", "b"):
        body = as_json(["1", "2", "3", "4"]).replace(b'{"inputs"', f'{{"id": "{id_}", "inputs"'.encode())
        request: Any = model._read(None, None, body)
        reply: Reply = request.answer(Result({"action": np.array([1])}, "v", 7), JSON)
        assert json.loads(reply.body)["id"] == id_
        assert json.loads(reply.body)["outputs"] == [{"name": "action", "datatype": "INT64", "shape": [1], "data": [1]}]


def test_a_body_that_came_in_many_pieces_is_read_like_any() -> None:
    """It is a bytearray then."""
    for body, length in ((as_json(["1", "2", "3", "4"]), None), (bytes(16), 0)):
        assert outcome(served(), bytearray(body), length) == outcome(served(), body, length)
    model, data = served(), ",".join(["1"] * 4)
    for rows in (1, 8):
        text = as_json([data] * rows).replace(b"[1, 4]", b"[%d, 4]" % rows)
        assert outcome(model, bytearray(text), None) == outcome(served(), text, None)


def test_no_more_kinds_are_kept_than_some() -> None:
    model = served()
    for number in range(600):
        outcome(model, as_json(["1", "2", "3", "4"]) + b" " * number, None)
    assert len(model._reader._known) <= 256


LEAVES = [
    Leaf("0/observation", dtype, (2,), low, high)
    for dtype, low, high in (
        ("float32", None, None), ("float64", -1.0, 1.0), ("uint8", 0, 200), ("int64", None, 5), ("bool", None, None),
        ("int32", [0, -5], [3, 5]), ("float32", None, [1.0, 2.0]), ("float16", None, None), ("uint64", None, None),
    )
]  # fmt: skip


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: f"{leaf.dtype}-{leaf.maximum}")
def test_arrays_that_are_read_quickly_are_read_as_the_validator_reads_them(leaf: Leaf) -> None:
    spec = policy_spec(leaf, signatures=ACTION)
    reader, validator = ArrayReader(spec, 8), InputValidator(spec, rows_limit=8, strict_bounds=True)
    values = [0, 1, 2, 4, 5, 6, -1, -5, -6, 200, 201, 255, 1e300, float("nan"), float("-inf")]
    taken = 0
    for first in values:
        for rows in (0, 1, 40, 8):
            with np.errstate(all="ignore"):
                array = np.array([[first, 1]] * rows, np.float64).reshape(rows, 2).astype(leaf.storage)
            found = reader.read({"0/observation": array}, rows)
            if found is None:
                continue
            taken += 1
            wanted = validator.read({"0/observation": array})
            assert msgspec.structs.replace(found, arrays={}) == msgspec.structs.replace(wanted, arrays={})
            assert found.arrays["0/observation"].tobytes() == wanted.arrays["0/observation"].tobytes()
    assert taken > 5


def test_a_state_comes_whole_or_not_at_all() -> None:
    state = (Leaf("1/0", "float32", (2,)), Leaf("1/1", "float32", (2,)))
    reader = ArrayReader(policy_spec(state=state, signatures=ACTION), 8)
    row, part = np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32)
    with_none, with_all = reader.read({"0/observation": row}, 1), {"0/observation": row, "1/0": part, "1/1": part}
    assert with_none is not None
    assert with_none.needs_state
    found = reader.read(with_all, 1)
    assert found is not None
    assert not found.needs_state
    assert reader.read({"0/observation": row, "1/0": part}, 1) is None
    assert reader.read({"1/0": part, "1/1": part}, 1) is None


def test_every_dtype_of_a_policy_has_a_datatype() -> None:
    assert len(set(DATATYPES.values())) == len(DATATYPES) == 14


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/v2/models/a/infer", "a"),
        (b"/v2/models/a:distribution/infer", "a:distribution"),
        (b"/v2/models/a%3Adistribution/infer", "a:distribution"),
        (b"/v2/models/a%2Fb/infer", ""),
        (b"/v2/models/a/versions/1/infer", ""),
        (b"/v2/models/infer", ""),
        (b"/v2/models//infer", ""),
    ],
)
def test_models_of_paths(path: bytes, model: str) -> None:
    assert model_of_path(path) == model
