"""Environments have a place each; beyond a bound those go that stepped longest ago, and the log says it once."""

import logging

import pytest

from app.experience import environments
from app.experience.environments import Environments

MOST = 16


def test_beyond_the_bound_those_go_that_stepped_longest_ago_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environments, "_MOST_ENVIRONMENTS", MOST)
    caplog.set_level(logging.WARNING, "policy_server.experience")
    there = Environments()
    for number in range(MOST):
        there.named((f"s{number}", "", 0), [number, 0, 0])
    there.named(("s0", "", 0), [0, 0, 1])
    assert len(list(there)) == MOST
    assert caplog.messages == []
    for number in range(MOST, 3 * MOST):
        there.named((f"s{number}", "", 0), [number, 0, 0])
        names = [name for (name, _, _), _ in there]
        assert len(names) <= MOST
        assert names[-2:] == [f"s{number - 1}" if number > MOST else "s0", f"s{number}"]
    assert caplog.messages == ["more than 16 environments: episodes of those that step seldom break off"]
