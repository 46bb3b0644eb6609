"""A policy.json that was damaged, or edited by hand: what it says of a tensor in one place must hold in the others."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saver.artifact import IncompleteError, read_policy_manifest

_FLOAT = {"dtype": "float32", "shape": [None, 3]}
_NUMBER = {"dtype": "float32", "shape": [None]}
_INPUTS = {"0/observation": _FLOAT, "1": {"dtype": "int64", "shape": [None]}}
_INPUTS |= dict.fromkeys(("0/step_type", "0/reward", "0/discount"), _NUMBER)
_ACTION = {"action": {"dtype": "int32", "shape": [None]}}
_STATE = {"dtype": "int64", "shape": []}
MANIFEST: dict[str, Any] = {
    "format": 1,
    "policy_class": "QPolicy",
    "written_with": {"tensorflow": "2.21.0"},
    "batch_size": None,
    "takes_time_step": True,
    "specs": {
        "inputs": {
            "dict": {
                "observation": {
                    "name": "0/observation",
                    "dtype": "float32",
                    "shape": [3],
                    "minimum": [0, 1.5, "-Infinity"],
                    "maximum": 2,
                },
                **{
                    name: {"name": f"0/{name}", "dtype": "float32", "shape": []}
                    for name in ("step_type", "reward", "discount")
                },
                "policy_state": {"name": "1", **_STATE},
            }
        },
        "action": {"name": "action", "dtype": "int32", "shape": [], "minimum": 0, "maximum": 1},
        "state": {"name": "state", **_STATE},
        "info": {"list": []},
        "initial_state": {"name": "state", **_STATE},
    },
    "signatures": {
        "action": {"inputs": _INPUTS, "outputs": _ACTION | {"state": {"dtype": "int64", "shape": [None]}}},
        "get_initial_state": {
            "inputs": {"batch_size": {"dtype": "int32", "shape": []}},
            "outputs": {"state": {"dtype": "int64", "shape": [None]}},
        },
    },
    "serving": {
        "signatures": {
            "greedy": {"inputs": _INPUTS, "outputs": _ACTION},
            "sample": {
                "inputs": _INPUTS | {"noise/uniform": {"dtype": "float32", "shape": [None, 1]}},
                "outputs": _ACTION,
            },
            "log_prob": {"inputs": _INPUTS | _ACTION, "outputs": {"log_prob": {"dtype": "float32", "shape": [None]}}},
            "distribution": {
                "inputs": _INPUTS,
                "outputs": {"action/logits": _FLOAT, "action/mode": {"dtype": "int32", "shape": [None]}},
            },
        },
        "distributions": {
            "action": {"family": "categorical", "parameters": ["logits"], "statistics": ["mode"], "details": {}}
        },
        "noise": {"uniform": 1, "normal": 0},
        "unavailable": {},
    },
    "files": {},
}  # fmt: skip


def places(value: object, *above: object) -> Iterator[tuple[object, ...]]:
    """Every place in JSON, as the keys that lead to it."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*above, key)
        yield from places(child, *above, key)


def changed(place: tuple[object, ...], *value: object) -> dict[str, Any]:
    """The manifest with `value` at a place; without the place where no value is given."""
    data: Any = copy.deepcopy(MANIFEST)
    parent = data
    for key in place[:-1]:
        parent = parent[key]
    if value:
        parent[place[-1]] = value[0]
    else:
        del parent[place[-1]]
    return dict(data)


def read(folder: Path, data: dict[str, Any]) -> object:
    (folder / "policy.json").write_text(json.dumps(data))
    return read_policy_manifest(folder)


def test_what_agrees_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, MANIFEST)


OBSERVATION = ("specs", "inputs", "dict", "observation")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed(("signatures", "action")), "signatures has no 'action'"),
        (changed(("signatures", "get_initial_state")), "signatures has no 'get_initial_state'"),
        (changed((*OBSERVATION, "name"), "0/absent"), "inputs/observation is '0/absent', which the signature does not"),
        (changed((*OBSERVATION, "dtype"), "float64"), "'0/observation' of dtype float64, in the signature of float32"),
        (changed((*OBSERVATION, "name"), ["0"]), r"inputs/observation has the name \['0'\]"),
        (changed((*OBSERVATION, "dtype"), None), "inputs/observation has dtype None"),
        (changed((*OBSERVATION, "dtype"), "floaty"), "inputs/observation has dtype 'floaty'"),
        (changed((*OBSERVATION, "shape"), ["3"]), r"inputs/observation has shape \['3'\]"),
        (changed((*OBSERVATION, "shape"), [-3]), r"inputs/observation has shape \[-3\]"),
        (changed((*OBSERVATION, "minimum"), [0, 1]), "has minimum .*, expected a number, or lists that"),
        (changed((*OBSERVATION, "minimum"), [[0], 1, 2]), "has minimum .*, expected a number, or lists that"),
        (changed((*OBSERVATION, "maximum"), {"a": 1}), "has maximum .*, expected a number, or lists that"),
        (changed(("specs", "inputs", "dict", "policy_state")), "action takes '1', which is in none of the specs"),
        (changed(("specs", "initial_state", "name"), "other"), "initial_state is 'other'"),
        (changed(("specs", "action", "name"), "other"), "action is 'other'"),
        (changed(("batch_size",), 0), "batch_size is 0, expected a positive integer or null"),
        (changed(("batch_size",), True), "batch_size is True"),
        (changed(("batch_size",), 5), r"'0/observation' of shape \[5, 3\], in the signature of \[None, 3\]"),
        (changed(("specs", "inputs", "dict", "discount")), "takes_time_step is True, and inputs has"),
        (changed(("serving", "noise", "uniform"), 0), "noise has 0 uniform numbers a row, serving's sample takes .1."),
        (changed(("serving", "noise", "normal"), 10**9), "noise has 1000000000 normal numbers a row, .* takes .0."),
        (changed(("serving", "signatures", "greedy", "outputs"), {}), "action of serving's greedy is 'action'"),
        (changed(("serving", "distributions", "other"), MANIFEST["serving"]["distributions"]["action"]), "expected"),
        (changed(("serving", "distributions"), {}), "expected the actions"),
        (changed(("serving", "distributions", "action", "statistics"), ["mean"]), "distributions has action/mean"),
    ],
)  # fmt: skip
def test_what_disagrees_is_named(tmp_path: Path, data: dict[str, Any], says: str) -> None:
    with pytest.raises(IncompleteError, match=f"policy.json does not agree with itself: .*{says}"):
        read(tmp_path, data)


@pytest.mark.parametrize("bound", [1, [1.0], [0, 1, 2], [[0], [1]], [[0, 1, 2]]])
def test_bounds_may_broadcast_to_the_leaf(tmp_path: Path, bound: object) -> None:
    """As TF-Agents keeps them: of the shape that they were given in."""
    data = changed(("specs", "inputs", "dict", "observation", "minimum"), bound)
    data["specs"]["inputs"]["dict"]["observation"] |= {"shape": [2, 3]}
    for signatures in (data["signatures"], data["serving"]["signatures"]):
        for signature in signatures.values():
            if "0/observation" in signature["inputs"]:
                signature["inputs"]["0/observation"] = {"dtype": "float32", "shape": [None, 2, 3]}
    assert read(tmp_path, data)


def test_inputs_of_a_programs_own_may_be_called_as_a_time_step_is(tmp_path: Path) -> None:
    assert read(tmp_path, changed(("takes_time_step",), False))


@pytest.mark.parametrize("value", [None, True, -1, 1e400, "", [], [[]], {}, {"list": 3}, {"dict": [1]}])
def test_whatever_stands_anywhere_is_read_or_refused(tmp_path: Path, value: object) -> None:
    count = 0
    for place in places(MANIFEST):
        for data in (changed(place, value), changed(place)):
            try:
                read(tmp_path, data)
            except IncompleteError:
                count += 1
    assert count > 100
