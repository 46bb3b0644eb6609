import json
import math

import ml_dtypes
import numpy as np
import pytest

from app.errors import Problem
from app.wire.tensors import Unfit, expected_text, read_tensor, show
from saver.artifact import Leaf


def problem_of(raw: object, leaf: Leaf) -> Problem:
    with pytest.raises(Unfit) as caught:
        read_tensor(raw, leaf, "observation")
    return caught.value.problem


def leaf(dtype: str = "float32", *shape: int | None) -> Leaf:
    return Leaf("0/observation", dtype, shape)


@pytest.mark.parametrize(
    ("raw", "shape", "rows", "batched"),
    [
        (1.5, (), 1, False),
        ([1.5, 2.5], (), 2, True),
        ([1, 2, 3], (3,), 1, False),
        ([[1, 2, 3]], (3,), 1, True),
        ([[1, 2, 3], [4, 5, 6]], (3,), 2, True),
        ([[1, 2], [3, 4]], (2, 2), 1, False),
        ([[[1, 2], [3, 4]]] * 5, (2, 2), 5, True),
        ([1, 2, 3, 4, 5], (None,), 1, False),
        ([[1, 2], [3, 4], [5, 6]], (None,), 3, True),
        ([[1], [2]], (None, 1), 1, False),
        ([], (), 0, True),
        ([], (None,), 1, False),
        ([], (0,), 1, False),
    ],
)
def test_rank_decides_between_one_value_and_a_batch(raw, shape, rows, batched):
    tensor = read_tensor(raw, leaf("float32", *shape), "observation")
    assert (len(tensor.array), tensor.batched) == (rows, batched)
    assert tensor.array.ndim == len(shape) + 1
    assert tensor.array.dtype == np.float32


def test_values_keep_their_places():
    tensor = read_tensor([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], leaf("int32", 2, 2), "observation")
    np.testing.assert_array_equal(tensor.array, np.arange(1, 9).reshape(2, 2, 2))


@pytest.mark.parametrize(
    ("raw", "shape", "where", "problem"),
    [
        ([1, 2, 3], (4,), "observation", "shape [3]"),
        ([[1, 2, 3]], (4,), "observation", "shape [1, 3]"),
        (1.0, (4,), "observation", "1.0"),
        ([[[1, 2, 3, 4]]], (4,), "observation", "shape [1, 1, 4]"),
        ([], (4,), "observation", "shape [0]"),
        ([[]], (4,), "observation", "shape [1, 0]"),
        ([[1.0]], (), "observation", "shape [1, 1]"),
        ([[1, 2], [3]], (2,), "observation[1]", "1 items"),
        ([[1, 2], 3], (2,), "observation[1]", "3"),
        ([[1, 2], [3, [4]]], (2,), "observation[1][1]", "a list of 1 items"),
        ([[[1], [2]], [[3], [4, 5]]], (2, 1), "observation[1][1]", "2 items"),
        # The size of an unknown dimension may be any, but is one size in the whole batch.
        ([[1], [2, 3]], (None,), "observation[1]", "2 items"),
        ([[[1], [2]], [[3], [4, 5]]], (None, None), "observation[1][1]", "2 items"),
    ],
)
def test_wrong_shape_names_place_what_came_and_what_was_expected(raw, shape, where, problem):
    found = problem_of(raw, leaf("float32", *shape))
    assert (found.where, found.problem) == (where, problem)
    assert "float32" in found.expected or "items" in found.expected


def test_ragged_strings_of_unknown_size_are_refused():
    assert problem_of([["a"], ["b", "c"]], leaf("string", None)).where == "observation[1]"


@pytest.mark.parametrize("depth", [70, 900])
@pytest.mark.parametrize("dtype", ["float32", "string", "bool", "int32"])
def test_deep_nesting_is_refused(depth, dtype):
    raw = json.loads("[" * depth + "]" * depth)
    assert problem_of(raw, leaf(dtype, 2)).where == "observation"


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_reach_both_ends_of_their_dtype_and_no_further(dtype):
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max)
    tensor = read_tensor([low, high, 1], leaf(dtype, 3), "observation")
    assert tensor.array.dtype == np.dtype(dtype)
    assert tensor.array.tolist() == [[low, high, 1]]
    for outside in (low - 1, high + 1):
        found = problem_of([1, outside], leaf(dtype, 2))
        assert found == Problem("observation[1]", str(outside), f"an integer that fits {dtype} ({low} to {high})")


@pytest.mark.parametrize(
    ("dtype", "item", "shown"),
    [
        ("uint8", 300, "300"),
        ("uint8", -1, "-1"),
        ("int64", 2**63, "9223372036854775808"),
        ("uint64", 2**70, "1180591620717411303424"),
        ("int32", 10**40, "a very large integer"),
        ("int32", 1.0, "1.0"),
        ("int32", 1.5, "1.5"),
        ("int32", True, "true"),
        ("int32", "7", "the string '7'"),
        ("int32", None, "null"),
        ("int32", {}, "an object"),
        ("int32", math.nan, "NaN"),
        ("float32", 1e39, "1e+39"),
        ("float32", -1e39, "-1e+39"),
        ("float16", 1e6, "1000000.0"),
        ("bfloat16", 1e39, "1e+39"),
        ("float64", 10**400, "a very large integer"),
        ("float32", math.nan, "NaN"),
        ("float32", math.inf, "Infinity"),
        ("float64", -math.inf, "-Infinity"),
        ("float32", False, "false"),
        ("float32", "1.0", "the string '1.0'"),
        ("float32", None, "null"),
        ("float32", {"a": 1}, "an object"),
        ("bool", 1, "1"),
        ("bool", 0.0, "0.0"),
        ("bool", "true", "the string 'true'"),
        ("bool", None, "null"),
        ("string", 1, "1"),
        ("string", True, "true"),
        ("string", None, "null"),
    ],
)
def test_bad_item_is_named_among_good_ones(dtype, item, shown):
    good = {"bool": True, "string": "a"}.get(dtype, 1)
    found = problem_of([[good, good], [good, item]], leaf(dtype, 2))
    assert (found.where, found.problem) == ("observation[1][1]", shown)
    assert found.expected.startswith(("an integer that fits", "a finite number that fits", "a string", "true or false"))
    scalar = problem_of(item, leaf(dtype))
    assert (scalar.where, scalar.problem) == ("observation", shown)


def test_integer_is_a_float_but_a_huge_one_keeps_its_value():
    assert read_tensor(2**70, leaf("float32"), "x").array.tolist() == [float(2**70)]
    assert read_tensor([2**63, -1], leaf("float64", 2), "x").array.tolist() == [[float(2**63), -1.0]]


def test_uint64_beyond_int64_is_exact():
    assert read_tensor([2**64 - 1, 1], leaf("uint64"), "x").array.tolist() == [2**64 - 1, 1]


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_short_floats_are_rounded(dtype, numpy_dtype):
    array = read_tensor([0.1, 3], leaf(dtype, 2), "x").array
    assert array.dtype == numpy_dtype == leaf(dtype).storage
    assert array[0, 0] == numpy_dtype(0.1)


def test_booleans_and_strings_are_read():
    assert read_tensor([True, False], leaf("bool", 2), "x").array.tolist() == [[True, False]]
    texts = read_tensor(["a", "é\0b"], leaf("string"), "x")
    assert (texts.array.tolist(), texts.batched, texts.array.dtype) == (["a", "é\0b"], True, np.dtype(object))


# Arrays: what binary bodies bring


def outcome(raw: object, of: Leaf) -> tuple:
    """What was read, or what was wrong."""
    try:
        tensor = read_tensor(raw, of, "observation")
    except Unfit as unfit:
        return (unfit.problem,)
    return tensor.batched, tensor.array.dtype, tensor.array.shape, tensor.array.tolist()


NUMBERS = ["float16", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))]


def random_array(random: np.random.Generator, dtype: str) -> np.ndarray:
    """Any bits, or small numbers."""
    shape = [(2,), (1, 2), (3, 2)][random.integers(3)]
    if random.random() < 0.5:
        return random.integers(0, 9, shape).astype(dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(random.bytes(size), dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["bfloat16", *NUMBERS])
def test_random_arrays_are_read_or_refused_as_the_same_values_in_lists(dtype):
    random = np.random.default_rng(4)
    # A list may mix integers with floats, a tensor is one or the other.
    for came in [d for d in NUMBERS if "int" in d or "float" in dtype]:
        for _ in range(50):
            array = random_array(random, came)
            assert outcome(array, leaf(dtype, 2)) == outcome(array.tolist(), leaf(dtype, 2)), array


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", "int64"])
@pytest.mark.parametrize(("shape", "batched"), [((2, 3), False), ((5, 2, 3), True)])
def test_array_of_the_leafs_dtype_is_used_as_it_is(dtype, shape, batched):
    array = np.ones(shape, dtype)
    tensor = read_tensor(array, leaf(dtype, 2, 3), "observation")
    assert np.shares_memory(tensor.array, array)
    assert (tensor.batched, tensor.array.shape[1:]) == (batched, (2, 3))


@pytest.mark.parametrize(
    ("array", "dtype", "where", "problem"),
    [
        (np.array([1, np.nan, 3], np.float32), "float32", "observation[1]", "NaN"),
        (np.array([[1, 2, 3], [1, 2, -np.inf]], np.float32), "float32", "observation[1][2]", "-Infinity"),
        (np.array([1, 1e39, 3]), "float32", "observation[1]", "1e+39"),
        (np.array([1, 2, 70_000], np.int32), "float16", "observation[2]", "70000"),
        (np.array([1, 256, 3], np.int64), "uint8", "observation[1]", "256"),
        (np.array([1, -1, 3], np.int8), "uint64", "observation[1]", "-1"),
        (np.array([1, 2**63, 3], np.uint64), "int64", "observation[1]", "9223372036854775808"),
        (np.array([1, 2**63 - 1, 2**64 - 1], np.uint64), "int64", "observation[2]", "18446744073709551615"),
        (np.ones(3, np.float32), "int32", "observation", "a tensor of float32, shape [3]"),
        (np.ones((2, 3), np.float64), "uint8", "observation", "a tensor of float64, shape [2, 3]"),
        (np.ones(3, bool), "int32", "observation", "a tensor of bool, shape [3]"),
        (np.ones(3, bool), "float32", "observation", "a tensor of bool, shape [3]"),
        (np.ones(3, np.uint8), "bool", "observation", "a tensor of uint8, shape [3]"),
        (np.ones(3, np.uint8), "string", "observation", "a tensor of uint8, shape [3]"),
        (np.ones(4, np.float32), "float32", "observation", "shape [4]"),
        (np.ones((2, 4), np.float32), "float32", "observation", "shape [2, 4]"),
        (np.array(1, np.float32), "float32", "observation", "shape []"),
        (np.ones((1, 1, 3), np.float32), "float32", "observation", "shape [1, 1, 3]"),
        (np.ones((1,) * 32, np.float32), "float32", "observation", f"shape {[1] * 32}"),
    ],
)
def test_array_that_does_not_fit_names_place_what_came_and_what_was_expected(array, dtype, where, problem):
    found = problem_of(array, leaf(dtype, 3))
    assert (found.where, found.problem) == (where, problem)
    assert dtype in found.expected


@pytest.mark.parametrize(
    "raw",
    [
        [np.ones(3, np.float32)] * 3,
        [[1, 2, 3], np.ones(3)],
        [1.0, np.array(1.0), 1.0],
        [np.zeros((2**40, 0))],
        [[], np.zeros((0, 2**40))],
        [b"", b"", b""],
        b"123",
    ],
)
def test_arrays_and_bytes_inside_lists_are_refused(raw):
    assert problem_of(raw, leaf("float32", 3)).where.startswith("observation")


def test_float32_values_are_those_numpy_rounds_to():
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-20, 20).repeat(25)
    array = read_tensor(values.tolist(), leaf("float32", None), "x").array
    np.testing.assert_array_equal(array[0], values.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((), "one float32, or a batch of shape [n]"),
        ((4,), "float32 of shape [4], or a batch of shape [n, 4]"),
        ((None, 2), "float32 of shape [?, 2], or a batch of shape [n, ?, 2]"),
    ],
)
def test_expected_text_names_both_forms(shape, text):
    assert expected_text(leaf("float32", *shape)) == text


def test_what_came_is_shown_short():
    assert len(show("x" * 1000)) < 60
    assert show(10**1000) == "a very large integer"
    assert show([1] * 1000) == "a list of 1000 items"
