"""Requests of one row each that are read together: what each is by itself."""

import json
import random
from typing import Any

import pytest

from app.inputs import typed, typed_rows
from app.inputs.options import Options
from app.inputs.typed import TypedDecoder
from app.inputs.typed_rows import RowsRead
from saver.artifact import Leaf
from tests.support.request_bodies import ROW, SPECS, bodies
from tests.support.specs import LSTM_STATE, policy_spec

STATE = [[0.5, -0.5], [1.0, 2.0]]
RECURRENT = policy_spec(state=(Leaf("1/0", "float32", (2,)), Leaf("1/1", "float32", (2,))))


@pytest.fixture(params=["short bodies", "long bodies"])
def is_long(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "long bodies":
        monkeypatch.setattr(typed, "LEAST_BYTES", 0)
        monkeypatch.setattr(typed_rows, "_LONG_BYTES", 0)
    return bool(request.param == "long bodies")


def check(reader: TypedDecoder, sent: list[bytes], read: RowsRead) -> None:
    """That each is what it is by itself."""
    assert sorted(set(read.places)) == list(read.places)
    for row, place in enumerate(read.places):
        found = reader.read(sent[place])
        assert found is not None
        inputs, options = found
        assert (inputs.rows, inputs.batched, inputs.needs_state) == (1, False, read.needs_state)
        assert options == Options()
        assert inputs.arrays.keys() == read.arrays.keys()
        for leaf, array in inputs.arrays.items():
            assert array.dtype == read.arrays[leaf].dtype
            assert array.tolist() == read.arrays[leaf][row : row + 1].tolist()
    assert all(len(array) == len(read.places) for array in read.arrays.values())


@pytest.mark.parametrize("name", SPECS)
def test_rows_that_are_read_together_are_what_each_is_by_itself(name: str, is_long: bool) -> None:
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    if reader.rows is None:
        return
    together = 0
    for _ in range(40):
        some = [bodies(spec, draw) for _ in range(draw.randint(1, 12))]
        optional = {field.name for field in reader._fields if field.optional and draw.random() < 0.7}
        few = [{name: value for name, value in body.items() if name not in optional} for body in some]
        sent = [json.dumps(draw.choice(pair)).encode() for pair in zip(some, few, strict=True)]
        sent[draw.randrange(len(sent))] = draw.choice([b"{", b"{}", b"[]", sent[0], sent[0][:-1] + b',"options":{}}'])
        for body in sent:
            reader.read(body)  # so that its skeleton may be known
        read = reader.rows.read(sent)
        together += len(read.places)
        check(reader, sent, read)
    listed = all(field.in_body.is_listed(batched=False) for field in reader._fields if not field.optional)
    assert together or (is_long and not listed)


def of(*requests: dict[str, Any]) -> list[bytes]:
    return [json.dumps(request).encode() for request in requests]


FIRST, NEXT = {"observation": ROW}, {"observation": ROW, "policy_state": STATE}


@pytest.mark.parametrize(
    ("sent", "places", "needs_state"),
    [
        (of(NEXT, NEXT, NEXT), [0, 1, 2], False),
        (of(FIRST, FIRST), [0, 1], True),
        (of(NEXT, FIRST, NEXT), [0, 2], False),
        (of(FIRST, NEXT, FIRST), [0, 2], True),
        (of(NEXT, {**NEXT, "reward": 1.0}, NEXT), [0, 2], False),
        (of(NEXT, {**NEXT, "policy_state": STATE[:1]}, {**NEXT, "policy_state": None}), [0], False),
        (of(NEXT, {**NEXT, "policy_state": [STATE[0], [1.0, "2"]]}), [0], False),
    ],
)
def test_requests_with_a_state_are_read_together_and_those_without(
    sent: list[bytes], places: list[int], needs_state: bool, is_long: bool
) -> None:
    reader = TypedDecoder(RECURRENT, rows_limit=100)
    assert reader.rows is not None
    assert [reader.read(body) is None for body in sent].count(True) in (0, 1, 2)
    read = reader.rows.read(sent)
    if not is_long:
        assert (list(read.places), read.needs_state) == (places, needs_state)
    check(reader, sent, read)


def test_requests_with_parts_of_a_state_are_left_out() -> None:
    reader = TypedDecoder(RECURRENT, rows_limit=100, flattened=True)
    assert reader.rows is not None
    names = [field.name for field in reader._fields if not field.optional]
    whole = {names[0]: ROW, "1/0": STATE[0], "1/1": STATE[1]}
    part = {names[0]: ROW, "1/0": STATE[0]}
    read = reader.rows.read(of(whole, part, whole))
    assert (list(read.places), read.needs_state) == ([0, 2], False)
    read = reader.rows.read(of(part, part))
    assert (list(read.places), read.arrays) == ([], {})


def test_long_bodies_are_read_together_once_one_like_them_was_read_by_itself() -> None:
    spec = policy_spec(Leaf("0/observation", "float32", (400,)), state=LSTM_STATE)
    reader = TypedDecoder(spec, rows_limit=100)
    assert reader.rows is not None
    sent = of(*({"observation": [draw / 7 + place for place in range(400)]} for draw in range(3)))
    assert not reader.rows.reads(sent[0])
    reader.read(sent[0])
    assert reader.rows.reads(sent[1])
    read = reader.rows.read([*sent, b'{"observation":[' + b" " * 2048])
    assert (list(read.places), read.needs_state) == ([0, 1, 2], True)
    check(reader, sent, read)
    assert not reader.rows.reads(b" " * 2**14)


def test_a_long_body_that_comes_first_leaves_short_ones_together() -> None:
    reader = TypedDecoder(RECURRENT, rows_limit=100)
    assert reader.rows is not None
    batch = json.dumps({"observation": [ROW] * 90}).encode()
    assert len(batch) > typed_rows._LONG_BYTES
    assert reader.read(batch) is not None
    read = reader.rows.read([batch, *of(NEXT, NEXT, NEXT)])
    assert (list(read.places), read.needs_state) == ([1, 2, 3], False)
