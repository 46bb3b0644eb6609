"""NaN and infinities in requests: refused, or with `--non-finite accept` read as answers write them."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import DoesNotFit
from app.inputs.validate import InputValidator
from app.wire.codecs import JSON, MSGPACK, Codec
from saver.artifact import Leaf
from tests.support.specs import LSTM_STATE, policy_spec

SPEC = policy_spec()
ACCEPTED = [
    (b'{"observation": [1, "Infinity", "-Infinity", "NaN"]}', [1, math.inf, -math.inf, math.nan]),
    (b'{"observation": [1, Infinity, -Infinity, NaN]}', [1, math.inf, -math.inf, math.nan]),
    (b'{"observation": ["NaN", "NaN", "NaN", "NaN"]}', [math.nan] * 4),
    (b'{"observation": [[1, 2, 3, "Infinity"]]}', [1, 2, 3, math.inf]),
]


def read(body: bytes, non_finite: bool, codec: Codec = JSON, spec: Any = SPEC) -> Any:
    reader = InputValidator(spec, rows_limit=100_000, strict_bounds=False, non_finite=non_finite)
    return reader.read(codec.decode_any(body, reader.most_keys))


@pytest.mark.parametrize(("body", "wanted"), ACCEPTED)
def test_words_and_tokens_are_read_where_they_are_accepted(body: bytes, wanted: list[float]) -> None:
    np.testing.assert_array_equal(read(body, True).arrays["0/observation"][0], np.float32(wanted))


@pytest.mark.parametrize("body", [body for body, _ in ACCEPTED])
def test_they_are_refused_otherwise_and_the_setting_is_named(body: bytes) -> None:
    with pytest.raises(DoesNotFit, match="--non-finite accept"):
        read(body, False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"observation": [1, 2, 3, "nan"]}',
        b'{"observation": [1, 2, 3, "inf"]}',
        b'{"observation": [1, 2, 3, "1"]}',
        b'{"observation": [1, 2, 3, 1e39]}',  # a number, but none of float32
        b'{"observation": "NaN"}',
        b'{"observation": [1, 2, 3, 4], "step_type": "NaN"}',
        b'{"observation": ["NaN", 2, 3]}',
    ],
)
def test_what_is_no_such_word_is_refused_all_the_same(body: bytes) -> None:
    with pytest.raises(DoesNotFit):
        read(body, True)


def test_reward_and_state_are_read_back_as_an_answer_has_them() -> None:
    spec = policy_spec(state=LSTM_STATE)
    body = b'{"observation": [1, 2, 3, 4], "reward": "-Infinity", "policy_state": [["NaN", 0, 1], [0, "Infinity", 1]]}'
    arrays = read(body, True, spec=spec).arrays
    assert arrays["0/reward"].tolist() == [-math.inf]
    assert math.isnan(arrays["1/0"][0][0])
    assert arrays["1/1"].tolist() == [[0, math.inf, 1]]


@pytest.mark.parametrize("raw", [[1.0, math.inf, -math.inf, math.nan], np.float32([1, math.inf, -math.inf, math.nan])])
def test_msgpack_has_them_as_numbers(raw: Any) -> None:
    packed = {"dtype": "float32", "shape": raw.shape, "data": raw.tobytes()} if isinstance(raw, np.ndarray) else raw
    body = msgspec.msgpack.encode({"observation": packed})
    found = read(body, True, MSGPACK).arrays["0/observation"][0]
    np.testing.assert_array_equal(found, np.float32([1, math.inf, -math.inf, math.nan]))
    with pytest.raises(DoesNotFit, match="--non-finite accept"):
        read(body, False, MSGPACK)


def test_a_float_that_overflows_is_no_infinity() -> None:
    data = np.float64([1, 2, 3, 1e300]).tobytes()
    body = msgspec.msgpack.encode({"observation": {"dtype": "float64", "shape": [4], "data": data}})
    with pytest.raises(DoesNotFit):
        read(body, True, MSGPACK)


@pytest.mark.parametrize("word", [b'"NaN"', b"NaN", b'"-Infinity"'])
def test_one_among_many_rows_is_read(word: bytes) -> None:
    body = b'{"observation": [' + b"[1, 2, 3, 4]," * 40_000 + b"[1, 2, 3, " + word + b"]]}"
    found = read(body, True).arrays["0/observation"]
    assert len(found) == 40_001
    assert not math.isfinite(found[-1][3])
    with pytest.raises(DoesNotFit) as caught:
        read(body, False)
    assert caught.value.problems[0].where == "observation[40000][3]"


def test_integers_have_none() -> None:
    spec = policy_spec(Leaf("0/observation", "int32", (2,)))
    for body in (b'{"observation": [1, "NaN"]}', b'{"observation": [1, NaN]}'):
        with pytest.raises(DoesNotFit):
            read(body, True, spec=spec)
