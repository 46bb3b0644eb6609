"""Five minutes of rates."""

from app.rate_history import EVERY_S, RateHistory, sampled

RATES = {"p": {"answers_per_s": 3.0, "p50_ms": 1.0, "p99_ms": 2.0}, "q": {"answers_per_s": 1.0}}


def test_the_last_sixty_samples_are_kept() -> None:
    history = RateHistory()
    for number in range(100):
        history.add(sampled(number * EVERY_S, RATES))
    assert {name: len(samples) for name, samples in history.samples.items()} == {"p": 60, "q": 60}
    assert history.samples["p"][0] == (40 * EVERY_S, 3.0, 1.0, 2.0)
    assert history.samples["q"][-1] == (99 * EVERY_S, 1.0, 0.0, 0.0)


def test_a_policy_that_nobody_asks_any_more_is_forgotten_in_time() -> None:
    history = RateHistory({"old": [(0.0, 1.0, 1.0, 1.0)]})
    history.add(sampled(EVERY_S * 60, {"p": RATES["p"]}))
    assert set(history.samples) == {"old", "p"}
    history.add({})
    assert set(history.samples) == {"old", "p"}
    history.add(sampled(EVERY_S * 61, {"p": RATES["p"]}))
    assert set(history.samples) == {"p"}
