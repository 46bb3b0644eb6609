"""Counts by buckets, fine and coarse, and what can be said of them."""

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram

from app.local_histogram import AnswerCounts, LocalHistogram, quantile
from app.metrics import FINE_LATENCY_S, Metrics


def test_plain_numbers_are_flushed_once_and_land_in_the_bucket_of_their_bound() -> None:
    for finer in ((), (0.7, 5, 7, 20)):
        histogram = Histogram("h", "help", registry=CollectorRegistry(), buckets=(1, 10))
        local = LocalHistogram((1, 10), finer)
        for value in (0.5, 1, 1.5, 10, 11):
            local.observe(value)
        for _ in range(2):  # the second time there is nothing new
            local.flush_into(histogram)
            samples = {(s.name, s.labels.get("le")): s.value for s in histogram.collect()[0].samples}
            assert [samples["h_bucket", bound] for bound in ("1.0", "10.0", "+Inf")] == [2, 4, 5]
            assert (samples["h_count", None], samples["h_sum", None]) == (5, 24)


def test_a_flush_returns_the_counts_of_the_fine_buckets() -> None:
    histogram = Histogram("h", "help", registry=CollectorRegistry(), buckets=(1, 10))
    local = LocalHistogram((1, 10), (5, 20))
    assert local.bounds == (1, 5, 10, 20)
    for value in (0.0, 1, 4, 5, 6, 15, 25, 26):
        local.observe(value)
    assert local.flush_into(histogram) == {0: 2, 1: 2, 2: 1, 3: 1, 4: 2}
    assert local.flush_into(histogram) == {}


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("scale_s", [0.0002, 0.003, 1.0])
def test_quantiles_of_times_are_near_the_true_ones(share: float, scale_s: float) -> None:
    generator = random.Random(7)
    times = [generator.lognormvariate(0, 0.5) * scale_s for _ in range(5000)]
    local = LocalHistogram(FINE_LATENCY_S)
    for seconds in times:
        local.observe(seconds)
    counts = local.flush_into(Histogram("h", "help", registry=CollectorRegistry(), buckets=FINE_LATENCY_S))
    true = sorted(times)[int(share * len(times))]
    assert quantile(FINE_LATENCY_S, counts, share) == pytest.approx(true, rel=0.06)


def test_quantiles_at_the_ends_lie_within_the_bounds() -> None:
    assert quantile((1, 2), {0: 4}, 0.5) == 0.5
    assert quantile((1, 2), {2: 4}, 0.99) == 2
    assert quantile((1, 2), {0: 1, 1: 1}, 0.5) == 1
    assert 1 < quantile((1, 2), {0: 1, 1: 1}, 0.99) <= 2


def test_what_was_answered_is_taken_once_by_policy_and_added_up() -> None:
    metrics = Metrics()
    for route, status in (("action", 200), ("action", 200), ("distribution", 422)):
        metrics.data("p", route).answered(status, 0.001)
    metrics.data("q", "action").answered(503, 0.002)
    metrics.flush()  # as it is every second
    metrics.data("p", "action").answered(200, 0.001)
    taken = metrics.take_recent()
    assert {name: (counts.answers, counts.errors) for name, counts in taken.items()} == {"p": (4, 1), "q": (1, 1)}
    assert sum(taken["p"].seconds.values()) == 4
    assert metrics.take_recent() == {}
    together = AnswerCounts()
    together.add(taken["p"])
    together.add(taken["q"])
    assert (together.answers, together.errors, sum(together.seconds.values())) == (5, 2, 5)
