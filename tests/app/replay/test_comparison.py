import math

import numpy as np

from app.replay.comparison import Numbers, Totals, compare


def test_bits_rounding_and_tolerance_are_three_things():
    then = {"arm": np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [np.nan, 0.0], [0.0, 0.0]], np.float32)}
    now = {"arm": np.array([[1.0, 2.0], [1.0, 2.000001], [1.05, 2.0], [np.nan, 0.0], [-0.0, 0.0]], np.float32)}
    found = compare(then, now, ({}, {}), 0.1)
    assert found.equal.tolist() == [True, False, False, True, False]  # -0.0 has other bits than 0.0
    assert found.close.tolist() == [True, True, False, True, True]
    assert found.agree.tolist() == [True] * 5
    np.testing.assert_allclose(found.differences["arm"], [0, 1e-6, 0.05, 0, 0], atol=3e-7)
    assert compare(then, now, ({}, {}), 0.01).agree.tolist() == [True, True, False, True, True]
    nothing = {"arm": np.full((5, 2), np.nan, np.float32)}
    assert compare(then, nothing, ({}, {}), 0.1).agree.tolist() == [False] * 5


def test_discrete_actions_agree_only_where_they_are_equal_however_wide_the_tolerance():
    then = {"a": np.array([0, 1, 2]), "b": np.array([True, True, False]), "c": np.array([2**63, 0, 1], np.uint64)}
    now = {"a": np.array([0, 3, 2]), "b": np.array([True, True, True]), "c": np.array([2**63, 0, 1], np.uint64)}
    found = compare(then, now, ({}, {}), 10.0)
    assert found.agree.tolist() == found.equal.tolist() == [True, False, False]
    assert {name: apart.tolist() for name, apart in found.differences.items()} == {
        "a": [0, 2, 0],
        "b": [0, 0, 1],
        "c": [0, 0, 0],
    }


def test_what_else_was_answered_has_to_be_equal_too_but_not_to_agree():
    actions = {"a": np.array([1, 1])}
    info = ({"value": np.array([0.5, 0.5], np.float32)}, {"value": np.array([0.5, 0.6], np.float32)})
    found = compare(actions, actions, info, 0.0)
    assert (found.equal.tolist(), found.close.tolist(), found.agree.tolist()) == (
        [True, False],
        [True, False],
        [True, True],
    )


def test_rows_are_replaced_where_others_come_nearer():
    then = {"a": np.array([1.0, 1.0, 1.0, 1.0], np.float32)}
    found = compare(then, {"a": np.array([1.0, 1.000001, 2.0, 2.0], np.float32)}, ({}, {}), 0.0)
    better = compare({"a": then["a"][1:]}, {"a": np.array([1.0, 3.0, 1.000001], np.float32)}, ({}, {}), 0.0)
    found.replace(np.array([1, 2, 3]), better)
    assert found.equal.tolist() == [True, True, False, False]
    assert found.close.tolist() == [True, True, False, True]
    np.testing.assert_allclose(found.differences["a"], [0, 0, 1, 1e-6], atol=3e-7)


def test_totals_add_up():
    then, now = {"a": np.array([1, 2, 3, 4])}, {"a": np.array([1, 2, 3, 9])}
    one, other = Totals(), Totals()
    one.add(compare(then, now, ({}, {}), 0.0), seeded=3)
    other.add(compare(then, then, ({}, {}), 0.0), seeded=0)
    other.sampled += 2
    one.divergence.add(np.array([0.5, math.inf, math.nan]))
    one.include(other)
    assert (one.rows, one.compared, one.greedy, one.seeded, one.sampled) == (10, 8, 5, 3, 2)
    assert (one.equal, one.close, one.agree, one.agreement, one.largest) == (7, 7, 7, 0.875, 5.0)
    assert (one.divergence.count, one.divergence.infinite, one.divergence.mean) == (1, 1, 0.5)
    assert one.divergence.largest == math.inf


def test_numbers_without_any_have_no_mean():
    assert math.isnan(Numbers().mean)
    assert math.isnan(Totals().agreement)
