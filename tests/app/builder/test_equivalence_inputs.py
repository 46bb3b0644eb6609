"""Inputs that engines are compared on lie inside their specs, reach their ends, and come again the same."""

from dataclasses import replace

import numpy as np
import pytest

from app.builder.equivalence_inputs import later_probes, random_inputs, random_values
from saver.artifact import Leaf
from tests.support.specs import policy_spec

FAR = 1e6


def values(leaf: Leaf, scale: float = 1.0, rows: int = 4000) -> np.ndarray:
    return random_values(leaf, rows, scale, np.random.default_rng(0))


@pytest.mark.parametrize("scale", [1.0, 0.01, 20.0, 1e3, FAR])
@pytest.mark.parametrize(
    "leaf",
    [
        Leaf("x", "float32", (3,), -0.5, 2.0),
        Leaf("x", "float32", (2,), [-1.0, 0.0], [1.0, 10.0]),
        Leaf("x", "float64", (), 0.0, None),
        Leaf("x", "int64", (), -3, 7),
        Leaf("x", "uint8", (2, 2), 0, 255),
        Leaf("x", "int32", (2,), [0, 5], [0, 9]),
    ],
    ids=lambda value: f"{value.dtype}{list(value.shape)}" if isinstance(value, Leaf) else None,
)
def test_values_lie_inside_their_bounds_in_their_dtype_and_shape(leaf, scale) -> None:
    found = values(leaf, scale)
    assert (found.dtype, found.shape) == (leaf.storage, (4000, *leaf.shape))
    assert (found >= np.asarray(leaf.minimum)).all()
    assert leaf.maximum is None or (found <= np.asarray(leaf.maximum)).all()


def test_bounded_values_reach_both_ends_far_out_and_all_integers_between() -> None:
    bounded = values(Leaf("x", "float32", (), -0.5, 2.0), FAR)
    assert (bounded.min(), bounded.max()) == (-0.5, 2.0)
    assert set(values(Leaf("x", "int32", (), -3, 7)).tolist()) == set(range(-3, 8))


def test_values_without_bounds_are_normal_times_the_scale() -> None:
    assert values(Leaf("x", "float32", ()), 20.0).std() == pytest.approx(20, rel=0.05)
    bounds_of_the_dtype = Leaf("x", "float32", (), float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
    assert values(bounds_of_the_dtype, 20.0).std() == pytest.approx(20, rel=0.05)


def test_integers_without_bounds_are_small_as_of_a_table_and_then_beyond_32_bits() -> None:
    leaf = Leaf("x", "int64", ())
    assert set(values(leaf).tolist()) == set(range(10))
    assert values(leaf, FAR).max() > 2**32


def test_strings_booleans_and_sizes_that_are_not_known_have_values_too() -> None:
    assert {type(value) for value in values(Leaf("x", "string", ())).tolist()} == {bytes}
    assert set(values(Leaf("x", "bool", ())).tolist()) == {False, True}
    assert values(Leaf("x", "float32", (None, 3)), rows=5).shape == (5, 2, 3)


def test_every_step_type_comes() -> None:
    inputs = random_inputs(policy_spec(Leaf("0/observation", "float32", (2,))), 100, 1.0, np.random.default_rng(0))
    assert set(inputs["0/step_type"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("int64", {2**33 + 2, 2**32 + 1, -1}), ("float32", {0.5, 2.5, 6.0, -1.0})]
)
def test_the_last_probes_are_where_operations_decide(dtype, wanted) -> None:
    *_, last = later_probes(policy_spec(Leaf("0/observation", dtype, (4,))), 5)
    assert wanted <= set(last["0/observation"].ravel().tolist())


def test_probes_are_the_same_for_every_version() -> None:
    spec = replace(policy_spec(Leaf("0/observation", "float32", (2,))))
    one, other = (list(later_probes(spec, 3)) for _ in range(2))
    assert len(one) == 6
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)
