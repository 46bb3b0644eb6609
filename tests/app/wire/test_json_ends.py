import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from app.errors import NotJson
from app.wire import json_ends
from app.wire.json_ends import end_of, end_of_string

TEXTS = ["", "a", '"', "\\", '\\"', "[", "]}", "{[", 'x\\\\"y', "é[", "\\u0022", "\n"]


@pytest.fixture(params=[1, 2, 3, 7, 64, 64 * 1024])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of few bytes, so that each construct falls on both sides of an end."""
    monkeypatch.setattr(json_ends, "_STEP", request.param)


def nested(rng: random.Random, depth: int) -> object:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([*TEXTS, 1, -2.5, None, True])
    items = [nested(rng, depth - 1) for _ in range(rng.randrange(4))]
    return items if rng.random() < 0.5 else {rng.choice(TEXTS) + str(i): item for i, item in enumerate(items)}


@pytest.mark.usefixtures("step")
def test_the_end_is_that_of_the_value_whatever_its_strings_say() -> None:
    rng = random.Random(0)
    for _ in range(200):
        value = json.dumps([nested(rng, 4)], ensure_ascii=rng.random() < 0.5).encode()
        before, after = b'{"k": ', rng.choice([b"", b"]", b"}", b', "x": ["]"]}'])
        assert end_of(before + value + after, len(before)) == len(before) + len(value)


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("text", TEXTS)
def test_a_string_ends_at_its_first_quote_that_is_not_escaped(text: str) -> None:
    value = json.dumps(text).encode()
    assert end_of_string(b"[" + value + b', "next"]', 1) == 1 + len(value)


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("body", [b"[", b"[[1, 2]", b'["]', b'{"a": [1}'[:-1], b'["\\"]'])
def test_a_list_without_an_end_is_refused(body: bytes) -> None:
    with pytest.raises(NotJson, match=f"ends within a list or an object, after {len(body)} bytes"):
        end_of(body, 0)


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("body", [b'"', b'"abc', b'"a\\"', b'"a\\\\\\"'])
def test_a_string_without_an_end_is_refused(body: bytes) -> None:
    with pytest.raises(NotJson, match=f"ends within a string, after {len(body)} bytes"):
        end_of_string(body, 0)


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("pairs", range(6))
def test_a_quote_behind_backslashes_ends_a_string_where_they_are_even(pairs: int) -> None:
    even = b'"a' + b"\\\\" * pairs + b'"'
    assert end_of_string(even + b', "next"', 0) == len(even)
    odd = even[:-1] + b'\\", "'
    assert end_of_string(odd + b"x", 0) == len(odd)
    assert end_of(b"[" + odd + b"]", 0) == len(odd) + 2


class CountedBytes(bytes):
    """Counts how often a part of it is taken."""

    parts = 0

    def __getitem__(self, key: Any) -> Any:
        type(self).parts += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("end", [end_of, end_of_string])
def test_backslashes_are_not_looked_at_one_by_one(end: Callable[[bytes, int], int]) -> None:
    CountedBytes.parts = 0
    with pytest.raises(NotJson, match="ends within"):
        end(CountedBytes(b'["'[end is end_of_string :] + b"\\" * 2**20), 0)
    assert 0 < CountedBytes.parts < 100
