import json

import numpy as np
import pytest

from app.batching.rows import Row, parted
from app.batching.rule import Result
from app.inference.response import ResponseTemplate, numbers_json, rows_json


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4), (3, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
def test_rows_are_written_as_each_by_itself(shape: tuple[int, ...], dtype: str) -> None:
    array = (np.random.default_rng(0).normal(size=shape) * 3).astype(dtype)
    written = rows_json(array)
    assert written is not None
    assert written == [numbers_json(array[place : place + 1], batched=False) for place in range(3)]
    template = ResponseTemplate(lambda value: {"action": value("a"), "info": [value("b")]})
    outputs = {"a": array, "b": np.arange(3.0)}
    rows = parted(outputs, 3)
    each = [template.json(Result(dict(row), "v", 7), batched=False) for row in rows]
    assert [template.json(Result(row, "v", 7), batched=False) for row in rows] == each
    assert template.json_of_each([Result(outputs, "v", 7)], [3]) == each
    assert [template.json(Result(row, "v", 7), batched=True) for row in rows] == [
        template.json(Result(dict(row), "v", 7), batched=True) for row in rows
    ]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_written_as_by_itself(odd: float) -> None:
    outputs = {"a": np.array([[1.0, 2.0], [odd, 0.5], [3.0, 4.0]], np.float32)}
    template = ResponseTemplate(lambda value: {"action": value("a")})
    rows = parted(outputs, 3)
    each = [template.json(Result(dict(row), "v", 7), batched=False) for row in rows]
    assert list(template.json_of_each([Result(outputs, "v", 7)], [3])) == each
    assert [template.json(Result(row, "v", 7), batched=False) for row in rows] == each
    assert json.loads(each[0])["action"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "array", [np.array(["a", "b"], object), np.zeros((2, 0), np.float32), np.broadcast_to(np.float32(1), (3, 2))]
)
def test_what_cannot_be_written_together_is_not(array: np.ndarray) -> None:
    assert rows_json(array) is None


def test_rows_are_views_and_know_their_places() -> None:
    outputs = {"a": np.arange(6).reshape(3, 2)}
    rows = parted(outputs, 3)
    assert [type(row) for row in rows] == [Row] * 3
    assert [row["a"].tolist() for row in rows] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [row.place for row in rows] == [0, 1, 2]


def results(*rows: int, dtype: str = "float32") -> list[Result]:
    """Of several policies, with so many rows each."""
    draw = np.random.default_rng(1)
    return [
        Result({"a": draw.normal(size=(count, 2)).astype(dtype)}, f"v{place}", place)
        for place, count in enumerate(rows)
    ]


def counts_of(results: list[Result]) -> list[int]:
    return [len(result.outputs["a"]) for result in results]


def each_of(template: ResponseTemplate, results: list[Result]) -> list[bytes]:
    return [
        template.json(Result({"a": array[None]}, result.version, result.train_step), batched=False)
        for result in results
        for array in result.outputs["a"]
    ]


@pytest.mark.parametrize("with_version", [True, False])
def test_rows_of_several_results_are_written_with_their_own_versions(with_version: bool) -> None:
    template = ResponseTemplate(lambda value: {"action": value("a")}, with_version)
    some = results(1, 3, 1, 2)
    assert list(template.json_of_each(some, counts_of(some))) == each_of(template, some)


@pytest.mark.parametrize(
    "odd",
    [
        Result({"a": np.array([[np.nan, 1.0]], np.float32)}, "odd", 9),
        Result({"a": np.array([[0.1, 0.2]], np.float64)}, "odd", 9),
        Result({"a": np.array([[1, 2]], np.int32)}, "odd", 9),
        Result({"a": np.array([[1.0, 2.0, 3.0]], np.float32)}, "odd", 9),
    ],
    ids=["not finite", "wide", "integers", "another shape"],
)
def test_a_result_unlike_the_others_changes_nothing_for_them(odd: Result) -> None:
    template = ResponseTemplate(lambda value: {"action": value("a")})
    some = [*results(2, 1), odd, *results(1)]
    assert list(template.json_of_each(some, counts_of(some))) == each_of(template, some)
