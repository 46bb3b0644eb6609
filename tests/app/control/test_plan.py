from dataclasses import replace
from pathlib import Path

import pytest

from app.control.plan import Candidate, newest_first, order, worth_trying


def candidates(text: str) -> list[Candidate]:
    """`a:7` is a checkpoint a of train step 7 and digest a; `a:7#x` has digest x."""
    found = []
    for item in text.split():
        rest, _, digest = item.partition("#")
        name, _, step = rest.partition(":")
        found.append(Candidate(name, Path("/c") / name, digest or name, int(step)))
    return found


def names(found: list[Candidate]) -> str:
    return " ".join(c.name for c in found)


@pytest.mark.parametrize(
    ("there", "in_order"),
    [
        ("", ""),
        ("a:1 b:3 c:2", "b c a"),
        ("step-9:5 step-10:5", "step-10 step-9"),
        ("step-10:5 step-9:6", "step-9 step-10"),
        ("7:-1 10:-1 9:-1", "10 9 7"),
        ("a10b2:1 a10b10:1 a9b99:1", "a10b10 a10b2 a9b99"),
        # Equal but for zeros, and numbers beside words: any order, but one that is always the same.
        ("007:1 7:1", "7 007"),
        ("7:1 007:1", "7 007"),
        ("a:1 1:1", "a 1"),
        ("1:1 a:1", "a 1"),
    ],
)
def test_highest_train_step_comes_first_ties_by_natural_name_order(there, in_order):
    assert names(newest_first(candidates(there))) == in_order


def test_any_two_names_can_be_ordered():
    wild = ["a", "1", "a1", "1a", "-", "a-1", "a--1", "1.2", "1.10", "A", "10", "a1b", "0x1"]
    backwards = wild[::-1]
    assert sorted(wild, key=lambda name: order(0, name)) == sorted(backwards, key=lambda name: order(0, name))


@pytest.mark.parametrize(
    ("there", "active", "refused", "tried"),
    [
        ("", "a:5", "", ""),
        ("a:5", "a:5", "", ""),
        ("a:5 b:6 c:7", "a:5", "", "c b"),
        ("a:5 b:4", "a:5", "", ""),
        ("a:5 b:6 c:7", "a:5", "c", "b"),
        ("a:5 b:6 c:7", "a:5", "b c", ""),
        # What was refused is its digest: other bytes under the same name are tried.
        ("a:5 b:6#new", "a:5", "b", "b"),
        ("step-9:5 step-10:5", "step-9:5", "", "step-10"),
        ("step-9:5 step-10:5", "step-10:5", "", ""),
        # Other bytes under the active name, also with an older train step.
        ("a:5#new", "a:5", "", "a"),
        ("a:2#new", "a:5", "", "a"),
        ("a:2#new b:6", "a:5", "", "b a"),
        # The same bytes under another name.
        ("a:5 z:5#a", "a:5", "", ""),
        # The export's own weights are older than any checkpoint.
        ("a:5 b:-1", "export:100", "", "a b"),
        ("a:5#export", "export:100", "", ""),
        # The active checkpoint's folder is gone.
        ("a:3 b:4", "gone:5", "", ""),
    ],
)
def test_watching_swaps_to_what_is_newer_or_was_overwritten(there, active, refused, tried):
    [serving] = candidates(active)
    passed_over = {(digest, None) for digest in refused.split()}
    found = worth_trying(candidates(there), serving.name, serving.digest, serving.train_step, passed_over)
    assert names(found) == tried


def test_what_was_refused_is_tried_again_when_its_files_have_changed():
    """A manifest may come before the last of its files: its digest stays, the files do not."""
    [found] = candidates("b:6")
    half = replace(found, stamp="half")
    assert worth_trying([half], "a", "a", 5, {("b", "half")}) == []
    assert worth_trying([replace(half, stamp="whole")], "a", "a", 5, {("b", "half")}) != []
