"""JSON merge patches: what a patch is applied to becomes what it was made for."""

import json
import random
from typing import Any

from app.wire.merge_patch import apply, difference


def _made(generator: random.Random, depth: int = 3) -> dict[str, Any]:
    """A small structure; two of them have much in common."""
    leaves: list[Any] = [True, 0, 1, "", "a", [], [1], [{"x": 1}], {}]
    names = [name for name in "abcd" if generator.random() < 0.6]
    return {
        name: _made(generator, depth - 1) if depth and generator.random() < 0.4 else generator.choice(leaves)
        for name in names
    }


def test_a_difference_leads_from_one_structure_to_the_other() -> None:
    generator = random.Random(7)
    for _ in range(3000):
        before, after = _made(generator), _made(generator)
        patch = difference(before, after)
        target = json.loads(json.dumps(before))
        apply(target, json.loads(json.dumps(patch)))
        assert target == after, (before, patch)
        assert (patch == {}) == (before == after)


def test_a_patch_holds_what_has_changed_and_nothing_else() -> None:
    before = {"a": {"x": 1, "y": [1, 2]}, "b": 2, "c": {"z": 1}, "d": {}}
    after = {"a": {"x": 1, "y": [1, 3]}, "b": 2, "d": {}, "e": {"n": 1}}
    assert difference(before, after) == {"a": {"y": [1, 3]}, "c": None, "e": {"n": 1}}


def test_what_becomes_an_object_or_is_none_any_more_is_replaced() -> None:
    for before, after in (({"a": 1}, {"a": {"b": 1}}), ({"a": {"b": 1}}, {"a": 1}), ({"a": {"b": 1}}, {"a": {}})):
        apply(before, difference(before, after))  # type: ignore[arg-type]
        assert before == after
