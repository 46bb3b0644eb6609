import itertools
import json
import re

import orjson
import pytest

from app.control import states
from app.control.states import State, Version

LEGAL = {
    ("found", "loaded"),
    ("found", "refused"),
    ("loaded", "verified"),
    ("loaded", "refused"),
    ("verified", "active"),
    ("verified", "refused"),
    ("verified", "released"),
    ("active", "draining"),
    ("draining", "released"),
    ("released", "found"),
    ("refused", "found"),
}


def version(state: State) -> Version:
    return Version("a", "digest", 7, state=state)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_only_drawn_steps_are_legal(old, new):
    moving = version(old)
    if (old.value, new.value) in LEGAL:
        moving.move(new)
        assert moving.state is new
        assert moving.times[new.value] >= moving.seen_at
    else:
        with pytest.raises(AssertionError, match=f"version a: {old.value} → {new.value} is not a legal step"):
            moving.move(new)
        assert moving.state is old


def test_drawn_and_explained_states_are_those_of_the_enum():
    drawing, _, text = (states.__doc__ or "").partition("`found`")
    values = {state.value for state in State}
    assert set(re.findall(r"[a-z]{4,}", drawing.split("\n\n")[1])) == values
    assert set(re.findall(r"`(\w+)`:", f"`found`{text}")) == values


def test_reason_of_a_refusal_goes_when_the_version_is_found_again():
    moving = version(State.FOUND)
    moving.move(State.REFUSED, "NaN in it")
    assert moving.public()["reason"] == "NaN in it"
    moving.move(State.FOUND)
    assert moving.public()["reason"] == ""


def test_public_form_is_that_of_the_contract():
    public = version(State.ACTIVE).public()
    assert set(public) == {"version", "digest", "state", "reason", "train_step", "engine", "seen_at"}
    assert (public["version"], public["state"], public["train_step"]) == ("a", "active", 7)


def test_a_reason_that_names_a_file_by_odd_bytes_can_be_sent_as_json():
    refused = Version("b\udcfe", "", -1)
    refused.move(State.REFUSED, "a\udcff is a folder")
    shown = json.loads(orjson.dumps(refused.public()))
    assert (shown["version"], shown["reason"]) == ("b\\udcfe", "a\\udcff is a folder")
