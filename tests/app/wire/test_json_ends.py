import json
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from app.errors import NotJson
from app.wire import json_ends
from app.wire.json_ends import end_of, end_of_string

TEXTS = ["", "a", '"', "\\", "\\" * 5, '\\"', "[", "]}", "{[", 'x\\\\"y', "é[", "\\u0022", "\n"]


@pytest.fixture(params=[1, 2, 3, 7, 64 * 1024])
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


@pytest.mark.parametrize("backslashes", [2**20, 2**20 + 1])
def test_backslashes_are_not_looked_at_one_by_one(backslashes: int) -> None:
    """16 MB of them took the only thread that reads large bodies five seconds."""
    body, lines = b'"' + b"\\" * backslashes + b'" "', 0

    def count(*_: object) -> Callable[..., Any]:
        nonlocal lines
        lines += 1
        return count

    sys.settrace(count)
    try:
        end = end_of_string(body, 0)
    finally:
        sys.settrace(None)
    assert end == len(body) - (0 if backslashes % 2 else 2)
    assert lines < 2000
