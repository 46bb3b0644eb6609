"""Bodies with a known skeleton are read as the validator reads them, or not at all."""

import json
import random
import re

import pytest

from app.errors import DoesNotFit
from app.inputs import skeletons, typed
from app.inputs.typed import TypedDecoder
from saver.artifact import Leaf
from tests.support.request_bodies import FLOATS, ROW, SPECS, bodies, check_alike, validated
from tests.support.specs import custom_spec, policy_spec

NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1",
    "0.5",
    "-1",
    "2",
    "1e-400",
    "4.9e-324",
    "1e0",
    "1E+0",
    "255",
    "256",
    "-129",
    "3.4e38",
    "3.5e38",
]


NO_NUMBERS = [
    "1e400",
    str(2**63),
    str(2**64),
    "1" * 30,
    "01",
    "1.",
    ".5",
    "+1",
    "-",
    "1 1",
    "",
    "1,1",
    "e",
    "1e",
    "--1",
    "1.1.1",
]


@pytest.mark.parametrize("name", SPECS)
def test_known_bodies_are_read_alike_whatever_their_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies like one before but for the characters of numbers, among them what is no number."""
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    spec, draw = SPECS[name], random.Random(name)
    reader = TypedDecoder(spec, rows_limit=100)
    by_simdjson = 0
    for _ in range(40):
        fields = bodies(spec, draw)
        fields.pop("options", None)
        body = json.dumps(fields).encode()
        assert reader.read(body) is not None
        for _ in range(20):
            pieces = re.split(rb"(?<=[\[,: ])(-?[0-9][^,\]} ]*)", body)
            place = draw.randrange(1, len(pieces), 2) if len(pieces) > 1 else 0
            pieces[place] = draw.choice(NUMBERS * 3 + NO_NUMBERS).encode()
            changed = b"".join(pieces)
            found = reader.read(changed)
            by_simdjson += reader._skeletons.read(changed) is not None
            if found is not None:
                check_alike(found, validated(spec, changed))
    assert by_simdjson > 20 or name == "switches"


@pytest.mark.parametrize(
    ("learned", "body"),
    [
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a2": [1], "a2": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a3": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "ae2": [2]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a2": [2e]}'),
        ('{"a": [1], "a2": [2]}', '{"a": [1], "a2": []}'),
        ('{"a": [1], "a2": [2], "a2": [3]}', '{"a": [1], "a": [2], "a2": [3]}'),
    ],
)
def test_names_of_which_digits_and_e_are_taken_are_still_different(
    learned: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    spec = custom_spec({"a": Leaf("a", "float32", ()), "a2": Leaf("a2", "float32", ())})
    reader = TypedDecoder(spec, rows_limit=100)
    assert reader.read(learned.encode()) is not None
    found = reader.read(body.encode())
    assert found is None or json.loads(body).keys() == {"a", "a2"}
    assert reader._skeletons.read(body.encode()) is None


def test_what_has_names_that_only_digits_make_different_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    nested = {"a1": Leaf("0/observation/a1", "float32", (4,)), "a2": Leaf("0/observation/a2", "float32", (2, 2))}
    for spec, wrap in (
        (policy_spec(nested), '{"observation": %s}'),
        (custom_spec({"a1": Leaf("a1", "float32", (4,)), "a2": Leaf("a2", "float32", (2, 2))}), "%s"),
    ):
        reader = TypedDecoder(spec, rows_limit=100)
        assert reader.read((wrap % '{"a1": [1, 2, 3, 4], "a2": [[1, 2], [3, 4]]}').encode()) is not None
        swapped = (wrap % '{"a2": [1, 2, 3, 4], "a1": [[1, 2], [3, 4]]}').encode()
        assert reader.read(swapped) is None
        with pytest.raises(DoesNotFit):
            validated(spec, swapped)


def test_leaves_in_a_list_are_read_alike_whichever_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers come in one piece; a list of one number looks like an empty one."""
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    sizes = [(1,), (3,), (2, 1), ()]
    spec = policy_spec(state=tuple(Leaf(f"state/{i}", "float32", shape) for i, shape in enumerate(sizes)))
    reader = TypedDecoder(spec, rows_limit=100)
    good = '{"observation": [[1, 2, 3, 4]], "policy_state": [[[5]], [[6, 7, 8]], [[[9], [10]]], [11]]}'
    for body in (good, good.replace("6", "-6.5"), good.replace("[11]", "[12]")):
        check_alike(reader.read(body.encode()), validated(spec, body.encode()))
    assert reader._skeletons.read(good.encode()) is not None
    for old, new in (("[5]", "[]"), ("[9]", "[]"), ("[10]", "[]"), ("[11]", "[]"), ("7", "1e39"), ("7", "NaN")):
        assert reader._skeletons.read(good.replace(old, new).encode()) is None
    bounded = policy_spec(state=(Leaf("state/0", "float32", (2,), -1.0, 1.0), Leaf("state/1", "float32", (2,))))
    reader = TypedDecoder(bounded, rows_limit=100)
    for numbers in ("[[0, 1], [2, 3]]", "[[1, 0], [3, 2]]"):
        body = f'{{"observation": [1, 2, 3, 4], "policy_state": {numbers}}}'
        check_alike(reader.read(body.encode()), validated(bounded, body.encode()))
    assert reader._skeletons.read(b'{"observation": [1, 2, 3, 4], "policy_state": [[2, 3], [0, 1]]}') is None


def test_fields_without_numbers_are_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    reader = TypedDecoder(policy_spec({"x": FLOATS, "none": {}}), rows_limit=100)
    assert reader.read(b'{"observation": {"x": [1, 2, 3, 4], "none": {}}}') is not None
    assert reader.read(b'{"observation": {"x": [1, 2, 3, 4], "nonee": {}}}') is None


def test_no_more_skeletons_are_kept_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "LEAST_BYTES", 0)
    reader = TypedDecoder(SPECS["flat"], rows_limit=10_000)
    for rows in range(1, 2 * skeletons._MOST_SKELETONS):
        assert reader.read(json.dumps({"observation": [ROW] * rows}).encode()) is not None
    assert len(reader._skeletons._known) == skeletons._MOST_SKELETONS
    assert reader._skeletons._bytes == sum(map(len, reader._skeletons._known))
    assert reader._skeletons.read(json.dumps({"observation": [ROW] * (2 * skeletons._MOST_SKELETONS - 1)}).encode())


def test_a_body_larger_than_what_a_parser_keeps_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeletons, "_MOST_KEPT_BYTES", 1000)
    reader = TypedDecoder(SPECS["flat"], rows_limit=100)
    for rows in (40, 90, 40, 90):
        body = json.dumps({"observation": [ROW] * rows}).encode()
        check_alike(reader.read(body), validated(SPECS["flat"], body))
