import math

import ml_dtypes
import numpy as np

from app.traffic.comparison import Numbers, compare


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


def test_each_number_of_an_action_may_have_a_tolerance_of_its_own():
    then = {"arm": np.zeros((3, 2), np.float32), "hand": np.zeros(3, np.float32), "grip": np.zeros(3, np.int64)}
    now = {
        "arm": np.array([[0.1, 9.0], [0.2, 0.0], [0.1, 9.0]], np.float32),
        "hand": np.array([0.5, 0.5, 0.6], np.float32),
        "grip": np.zeros(3, np.int64),
    }
    tolerance = {"arm": np.array([0.15, 10.0]), "hand": 0.55, "grip": 5.0}
    found = compare(then, now, ({}, {}), tolerance)
    assert found.agree.tolist() == [True, False, False]
    np.testing.assert_allclose(found.differences["arm"], [9.0, 0.2, 9.0], rtol=1e-6)


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


def test_numbers_without_any_have_no_mean():
    assert math.isnan(Numbers().mean)


def test_text_is_equal_or_not():
    then, now = (
        np.array(texts, object) for texts in ([["üp", "to"], ["a", ""]], [["üp".encode(), b"to"], [b"a", b"b"]])
    )
    found = compare({"said": then}, {"said": now}, ({"said": then}, {"said": now}), 10.0)
    assert found.equal.tolist() == found.close.tolist() == found.agree.tolist() == [True, False]
    assert found.differences["said"].tolist() == [0, 1]


def test_bfloat16_is_as_continuous_as_other_floats():
    then, now = (np.array([1.0, 1.0, one], ml_dtypes.bfloat16) for one in (1.0, 1.0078125))
    found = compare({"arm": then}, {"arm": now}, ({"arm": then}, {"arm": now}), 0.01)
    assert (found.equal.tolist(), found.agree.tolist()) == ([True, True, False], [True] * 3)
    assert found.differences["arm"].tolist() == [0, 0, 0.0078125]
