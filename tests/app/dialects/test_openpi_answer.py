"""Results that are filled into what is known already are those that are written anew, byte by byte."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from app.batching.rule import Result
from app.dialects.openpi import actions_of
from app.dialects.openpi_answer import ResultWriter
from app.dialects.openpi_arrays import encode
from app.inference.response import ResponseTemplate

MS = 1.25
Value = Callable[[str], Any]
TEMPLATES: dict[str, Callable[[Value], dict[str, Any]]] = {
    "one action": lambda value: {"action": value("a")},
    "a nest, infos and the state": lambda value: {
        "action": {"arm": value("a"), "grip": [value("b"), value("c")]},
        "log_prob": value("d"),
        "policy_state": [value("e")],
        "info": {"value": value("d"), "more": []},
    },
}
KINDS: dict[str, Any] = {
    "usual": np.float32,
    "integers": np.int64,
    "booleans": np.bool_,
    "bytes": np.uint8,
    "strings": object,
    "of the other end": np.dtype(">f4"),
}


def outputs(rows: int, kind: Any, number: int, shape: tuple[int, ...] = (3,)) -> dict[str, Any]:
    drawn = np.random.default_rng(number).integers(0, 2 if kind is np.bool_ else 200, (5, rows, *shape))
    arrays = [each.astype(str).astype(object) if kind is object else each.astype(kind) for each in drawn]
    return dict(zip("abcde", arrays, strict=True))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_results_are_those_that_are_written_anew(name: str, kind: str, batched: bool) -> None:
    template, writer = ResponseTemplate(TEMPLATES[name]), ResultWriter()
    changes = [
        ("0000000700", 700, (3,)), ("0000000700", 700, (3,)), ("0000000701", 701, (3,)), ("0000000701", 701, (2, 40)),
        ("0000000701", 701, ()), ("0000000701", 701, ()), ("0000000701", 2**40, ()),
    ]  # fmt: skip
    for number, (version, train_step, shape) in enumerate(changes):
        rows = 4 if batched and number % 2 else 1
        result = Result(outputs(rows, KINDS[kind], number, shape), version, train_step)
        wanted = encode(actions_of(template.structure(result, batched), MS, encode))
        assert writer.write(template, result, batched, MS) == wanted
        assert writer.write(template, result, batched, MS) == wanted


def test_an_output_that_changes_its_kind_is_written_as_it_is() -> None:
    template, writer = ResponseTemplate(TEMPLATES["one action"]), ResultWriter()
    for kind in (np.float32, np.int32, object, np.float32):
        result = Result({"a": np.ones((1, 2)).astype(kind)}, "a", 1)
        assert writer.write(template, result, False, MS) == encode(
            actions_of(template.structure(result, False), MS, encode)
        )


def test_the_time_is_that_of_each() -> None:
    template, writer = ResponseTemplate(TEMPLATES["one action"]), ResultWriter()
    result = Result({"a": np.ones((1, 2), np.float32)}, "a", 1)
    for took in (0.5, 1.5):
        found = msgspec.msgpack.decode(writer.write(template, result, False, took))
        assert found["server_timing"] == {"infer_ms": took}
