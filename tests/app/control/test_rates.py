"""Rates of the last seconds, of plain counts."""

import random

import pytest

from app.control.rates import WINDOW_S, Rates
from app.local_histogram import AnswerCounts

BOUNDS = (0.001, 0.002, 0.004)


def counts(answers: int, errors: int = 0, bucket: int = 1) -> AnswerCounts:
    made = AnswerCounts()
    made.count({200: answers - errors, 500: errors}, {bucket: answers})
    return made


def test_workers_are_added_up_over_the_window() -> None:
    rates = Rates(BOUNDS)
    rates.begin(100.0)
    assert rates.by_policy() == {}
    rates.add(100.5, [{"p": counts(100)}, {"p": counts(200, errors=30), "q": counts(1, bucket=3)}, {}])
    found = rates.by_policy()
    assert found["p"] == {"answers_per_s": 600, "errors_per_s": 60, "p50_ms": 1.5, "p99_ms": 1.99}
    assert found["q"] == {"answers_per_s": 2, "p50_ms": 4, "p99_ms": 4}
    rates.add(101.0, [{"p": counts(100)}])
    assert rates.by_policy()["p"]["answers_per_s"] == 400


def test_what_is_older_than_the_window_counts_no_more() -> None:
    rates = Rates(BOUNDS)
    rates.begin(0.0)
    for step in range(1, 21):
        rates.add(step / 2, [{"p": counts(50)}] if step <= 10 else [{}])
        if step <= 10:
            assert rates.by_policy()["p"]["answers_per_s"] == pytest.approx(100)
    assert rates.by_policy() == {}
    rates.begin(WINDOW_S * 100)
    rates.add(WINDOW_S * 100 + 0.5, [{"p": counts(1)}])
    assert rates.by_policy()["p"]["answers_per_s"] == 2


def test_a_worker_that_answers_late_stretches_no_rate() -> None:
    rates = Rates(BOUNDS)
    rates.begin(0.0)
    rates.add(0.5, [{"p": counts(50)}])
    rates.add(10.0, [{"p": counts(950)}])  # nothing could be asked in between
    assert rates.by_policy()["p"]["answers_per_s"] == pytest.approx(100)


def test_what_leaves_the_window_leaves_nothing_behind() -> None:
    generator = random.Random(7)
    rates = Rates(BOUNDS)
    rates.begin(0.0)
    for step in range(1, 200):
        some = [{generator.choice("pq"): counts(generator.randint(1, 9), bucket=generator.randint(0, 3))} for _ in "ab"]
        rates.add(step * 0.25, some)
        kept = Rates(BOUNDS)
        kept.begin(rates._began)
        for at, counted in rates._counted:
            kept.add(at, [counted])
        assert rates.by_policy() == kept.by_policy()
