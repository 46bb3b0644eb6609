"""Options of a request: what is read, and what is refused by name."""

import pytest

from app.errors import DoesNotFit
from app.inputs.options import Options, read_options


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        ({}, Options()),
        ({"mode": "greedy"}, Options(mode="greedy")),
        ({"mode": "sample", "seed": 0}, Options(mode="sample", seed=0)),
        ({"seed": 2**63 - 1, "log_prob": True}, Options(seed=2**63 - 1, log_prob=True)),
        ({"min_train_step": -5, "timeout_ms": 1}, Options(min_train_step=-5, timeout_ms=1)),
        ({"timeout_ms": 600_000}, Options(timeout_ms=600_000)),
    ],
)
def test_options_are_read(raw, options):
    assert read_options(raw) == options


@pytest.mark.parametrize(
    ("raw", "where", "problem"),
    [
        (None, "options", "null"),
        ([], "options", "a list of 0 items"),
        ("greedy", "options", "the string 'greedy'"),
        (False, "options", "false"),
        ({"mode": "Greedy"}, "options.mode", "the string 'Greedy'"),
        ({"mode": None}, "options.mode", "null"),
        ({"mode": ["greedy"]}, "options.mode", "a list of 1 items"),
        ({"seed": -1}, "options.seed", "-1"),
        ({"seed": 2**63}, "options.seed", "9223372036854775808"),
        ({"seed": 1.0}, "options.seed", "1.0"),
        ({"seed": True}, "options.seed", "true"),
        ({"log_prob": 1}, "options.log_prob", "1"),
        ({"min_train_step": "7"}, "options.min_train_step", "the string '7'"),
        ({"min_train_step": 2**63}, "options.min_train_step", "9223372036854775808"),
        ({"timeout_ms": 0}, "options.timeout_ms", "0"),
        ({"timeout_ms": 600_001}, "options.timeout_ms", "600001"),
        ({"timeout_ms": 5.5}, "options.timeout_ms", "5.5"),
        ({"temperature": 1}, "options.temperature", "is no option"),
    ],
)
def test_bad_option_is_named(raw, where, problem):
    with pytest.raises(DoesNotFit) as caught:
        read_options(raw)
    [found] = caught.value.problems
    assert (found.where, found.problem) == (where, problem)
    assert found.expected


def test_all_bad_options_are_listed():
    with pytest.raises(DoesNotFit) as caught:
        read_options({"seed": -1, "mode": 1, "log_prob": False})
    assert [p.where for p in caught.value.problems] == ["options.seed", "options.mode"]
