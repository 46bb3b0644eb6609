"""Modules of the console's page by themselves: how a state is patched, and how each distribution is drawn."""

import json
from typing import Any

import numpy as np
import pytest

from tests.integration.console.conftest import OpenPage

# RFC 7396, appendix A: original, patch, result.
PATCHES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ({}, {"constructor": {"name": "p"}, "toString": {"a": 1}}, {"constructor": {"name": "p"}, "toString": {"a": 1}}),
]

FLOATS = {"name": "action", "dtype": "float32", "shape": [2], "minimum": -2.0, "maximum": 2.0}
CHOICE = {"name": "action", "dtype": "int64", "shape": [], "minimum": 0, "maximum": 2}
# Family, spec, parameters, answered action → how many bars, densities and tables are drawn.
DRAWN = [
    ("categorical", CHOICE, {"logits": [0, 0, 0], "probs": [0.2, 0.3, 0.5]}, 1, (3, 0, 0)),
    ("categorical", {**CHOICE, "shape": [2]}, {"probs": [[0.5, 0.5], [0.1, 0.9]]}, [0, 1], (4, 0, 0)),
    ("masked_categorical", CHOICE, {"probs": [0.4, 0, 0.6], "mask": [True, False, True]}, 2, (3, 0, 0)),
    ("shifted_categorical", CHOICE, {"probs": [0.4, 0.6], "shift": 3}, 4, (2, 0, 0)),
    ("one_hot_categorical", {**CHOICE, "shape": [3]}, {"probs": [0.1, 0.2, 0.7]}, [0, 0, 1], (3, 0, 0)),
    ("bernoulli", {**CHOICE, "shape": [2]}, {"logits": [0, 0], "probs": [0.5, 0.25]}, [1, 0], (4, 0, 0)),
    ("normal", FLOATS, {"loc": [0.5, -1], "scale": [0.1, 2]}, [0.4, 3], (0, 2, 0)),
    ("multivariate_normal_diag", FLOATS, {"loc": [0, 1], "scale_diag": [1, 1]}, [0, 1], (0, 2, 0)),
    ("multivariate_normal_tril", FLOATS, {"loc": [0, 1], "scale_tril": [[1, 0], [0.5, 1]]}, [0, 1], (0, 2, 0)),
    ("squashed_normal", FLOATS, {"loc": [0, 3], "scale_diag": [1, 1], "low": -2, "high": 2}, [0, 2], (0, 2, 0)),
    ("beta", FLOATS, {"concentration1": [2, 5], "concentration0": [3, 1]}, [0.4, 0.9], (0, 2, 0)),
    ("deterministic", FLOATS, {"loc": [0.5, 1]}, [0.5, 1], (0, 2, 0)),
    ("normal", FLOATS, {"loc": ["NaN", "Infinity"], "scale": [1, 1]}, ["NaN", "Infinity"], (0, 0, 1)),
    ("normal", FLOATS, {"loc": [0, 1], "scale": [0, 0]}, [0, 1], (0, 0, 1)),
    ("mixture", FLOATS, {"mixture/probs": [0.5, 0.5], "components/loc": [[0, 1], [1, 2]]}, [0, 1], (0, 0, 1)),
    ("transformed", FLOATS, {"base/loc": [0, 1], "base/scale": [1, 1], "bijector/0/shift": [1, 1]}, [0, 1], (0, 0, 1)),
]


@pytest.fixture
def run(open_page: OpenPage) -> Any:
    """Evaluates a function of the page's modules."""
    page = open_page().page
    return page.evaluate


def test_state_is_patched_as_rfc_7396_says(run: Any) -> None:
    merged = """async (rows) => {
        const { merge } = await import("./console/state/merge.js");
        return rows.map(([target, patch]) => merge(target, patch));
    }"""
    assert run(merged, [[before, patch] for before, patch, _ in PATCHES]) == [after for *_, after in PATCHES]


def test_each_family_of_distributions_is_drawn(run: Any) -> None:
    drawn = """async (rows) => {
        const { fill } = await import("./console/draw/dom.js");
        const { drawing } = await import("./console/form/distribution.js");
        return rows.map(([family, leaf, parameters, action]) => {
            const node = document.createElement("div");
            fill(node, [drawing(leaf, { family, parameters }, action)]);
            const attributes = [...node.querySelectorAll("svg *")].flatMap((one) => [...one.attributes]);
            const wrong = attributes.some(({ value }) => /NaN|undefined/.test(value));
            const count = (kind) => node.querySelectorAll(kind).length;
            return [wrong, count(".bars li"), count(".density"), count(".parameters")];
        });
    }"""
    found = run(drawn, [list(row[:4]) for row in DRAWN])
    assert {json.dumps(row[:3]): tuple(got) for row, got in zip(DRAWN, found, strict=True)} == {
        json.dumps(row[:3]): (False, *row[4]) for row in DRAWN
    }


def test_density_of_a_squashed_normal_is_that_of_the_samples(run: Any) -> None:
    """The mean of what is drawn is the mean of tanh of normal draws, between the bounds."""
    mean = """async () => {
        const { densitiesOf } = await import("./console/form/distribution.js");
        const parameters = { loc: [0.7], scale_diag: [0.5], low: [-2], high: [4] };
        const [{ low, high, of }] = densitiesOf({ family: "squashed_normal", parameters }, { shape: [1] });
        let [sum, weighted] = [0, 0];
        for (let x = low + 0.001; x < high; x += 0.001) { sum += of(x); weighted += x * of(x); }
        return weighted / sum;
    }"""
    draws = 1 + 3 * np.tanh(np.random.default_rng(1).normal(0.7, 0.5, 400_000))
    assert abs(run(mean) - draws.mean()) < 0.01
