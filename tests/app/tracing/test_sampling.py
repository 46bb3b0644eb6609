"""OpenTelemetry's variables of samplers, and that as many are traced as they say."""

import random

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from app.tracing.context import Parent
from app.tracing.sampling import Sampler, sampler_from, trace_id_below


@pytest.mark.parametrize(
    ("kind", "argument", "follows", "rate"),
    [
        ("", "", True, 1.0),
        ("", "0.5", True, 1.0),
        ("always_on", "", False, 1.0),
        ("always_off", "1", False, 0.0),
        ("traceidratio", "0.25", False, 0.25),
        ("traceidratio", "", False, 1.0),
        ("parentbased_always_on", "", True, 1.0),
        ("parentbased_always_off", "", True, 0.0),
        ("parentbased_traceidratio", " 0.01 ", True, 0.01),
        ("ParentBased_TraceIdRatio", "0", True, 0.0),
    ],
)
def test_samplers(kind: str, argument: str, follows: bool, rate: float) -> None:
    assert sampler_from({"OTEL_TRACES_SAMPLER": kind, "OTEL_TRACES_SAMPLER_ARG": argument}) == (follows, rate)


@pytest.mark.parametrize(
    ("kind", "argument", "said"),
    [
        ("jaeger_remote", "", "OTEL_TRACES_SAMPLER is 'jaeger_remote'"),
        *[("traceidratio", argument, "OTEL_TRACES_SAMPLER_ARG") for argument in ("1.1", "-0.1", "nan", "1%")],
    ],
)
def test_what_cannot_be_used_is_logged_and_ignored(
    kind: str, argument: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = sampler_from({"OTEL_TRACES_SAMPLER": kind, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert found.rate == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(said)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.01, 0.5, 1.0])
def test_an_id_says_the_same_to_us_and_to_the_library(rate: float) -> None:
    ours, theirs, chance = Sampler(follows=False, rate=rate), TraceIdRatioBased(rate), random.Random(3)
    for _ in range(200):
        trace_id = chance.getrandbits(128)
        sampled = theirs.should_sample(None, trace_id, "").decision.is_sampled()
        assert ours.takes(Parent(trace_id, 1, sampled=not sampled)) is sampled
        if rate:
            assert theirs.should_sample(None, trace_id_below(ours.bound), "").decision.is_sampled()
            assert Sampler(follows=True, rate=rate).takes(Parent(trace_id, 1, sampled=True))


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9, 1.0])
def test_as_many_are_passed_over_as_by_a_draw_for_each(rate: float) -> None:
    sampler = Sampler(follows=True, rate=rate)
    drawn = [sampler.passed_over() for _ in range(20_000)]
    deviation = ((1 - rate) / rate**2 / len(drawn)) ** 0.5
    assert sum(drawn) / len(drawn) == pytest.approx((1 - rate) / rate, abs=6 * deviation)
    at_once = sum(passed == 0 for passed in drawn) / len(drawn)
    assert at_once == pytest.approx(rate, abs=6 * (rate * (1 - rate) / len(drawn)) ** 0.5)
