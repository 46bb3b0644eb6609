import json
import math

import ml_dtypes
import numpy as np
import pytest

from saver.artifact import Leaf, leaves, nest_from_json, nest_to_json, pack
from saver.artifact.nests import bound_of

LEAF = Leaf("0/observation", "float32", (None, 3))
NESTS = {
    "leaf": LEAF,
    "scalar": Leaf("reward", "float32", ()),
    "empty": (),
    "empty dict": {},
    "dict": {"a": LEAF, "b": Leaf("b", "string", (2,))},
    "tuple": (LEAF, LEAF),
    "deep": {"a": ({"b": (LEAF,)}, ()), "c": LEAF},
    "keys like ours": {"dict": LEAF, "list": (LEAF,), "name": {"dtype": LEAF}},
    "bounds": {
        "numbers": Leaf("x", "int64", (), -(2**63), 2**63 - 1),
        "unsigned": Leaf("x", "uint64", (), 0, 2**64 - 1),
        "floats": Leaf("x", "float32", (), -0.1, 4.8),
        "infinite": Leaf("x", "float32", (), -math.inf, math.inf),
        "lists": Leaf("x", "float32", (2, 2), [[-math.inf, -1.0], [0.0, 0.5]], [[math.inf, 1.0], [0.0, 1e30]]),
        "one side": Leaf("x", "int32", (), minimum=0),
        "zero": Leaf("x", "int32", (), 0, 0),
    },
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_nest_comes_back_from_json_as_it_was(nest):
    text = json.dumps(nest_to_json(nest), allow_nan=False)
    assert nest_from_json(json.loads(text)) == nest


def test_order_of_keys_is_kept():
    nest = {"z": LEAF, "a": LEAF, "m": LEAF}
    assert list(nest_from_json(json.loads(json.dumps(nest_to_json(nest))))) == ["z", "a", "m"]


@pytest.mark.parametrize("data", [{}, {"name": "x"}, {"dict": [1]}, {"list": 1}, {"list": [3]}])
def test_what_is_no_nest_is_refused(data):
    with pytest.raises((KeyError, TypeError, AttributeError)):
        nest_from_json(data)


def test_leaves_come_with_their_paths_in_order():
    assert list(leaves(NESTS["deep"])) == [("a/0/b/0", LEAF), ("c", LEAF)]
    assert list(leaves(NESTS["deep"], "0")) == [("0/a/0/b/0", LEAF), ("0/c", LEAF)]
    assert list(leaves(LEAF)) == [("", LEAF)]
    assert list(leaves(LEAF, "observation")) == [("observation", LEAF)]
    assert list(leaves(())) == []


def test_pack_makes_objects_of_dicts_and_lists_of_tuples():
    assert pack(NESTS["deep"], lambda leaf: leaf.dtype) == {"a": [{"b": ["float32"]}, []], "c": "float32"}


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (np.array(3, np.int64), 3),
        (np.array([3, 3, 3]), 3),
        (np.array([0, 3]), [0, 3]),
        (np.array([[0.5, 0.5]], np.float32), 0.5),
        (np.array([-np.inf, np.inf], np.float32), [-math.inf, math.inf]),
        (np.array(2**64 - 1, np.uint64), 2**64 - 1),
        (np.zeros((0,)), None),
        (np.zeros((0, 3)), None),
        (np.zeros((3, 0)), None),
        (7, 7),
        (0.25, 0.25),
        (np.array([0.5, np.nan], np.float32), [0.5, math.inf]),
        (np.full((2, 2), np.nan, np.float32), math.inf),
        (np.array([0.5, np.nan], ml_dtypes.bfloat16), [0.5, math.inf]),
        (math.nan, math.inf),
    ],
)
def test_equal_bounds_become_one_number(value, bound):
    found = bound_of(value, math.inf)
    assert found == bound
    assert type(found) is type(bound)
