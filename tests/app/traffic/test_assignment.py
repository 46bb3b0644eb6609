"""Which session belongs to which arm."""

import math

import pytest

from app.traffic.assignment import ACTIVE, CANARY, arm_of, place_of

IDS = [f"session-{number}" for number in range(10_000)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_the_canary_gets_its_share_of_ten_thousand_sessions(share: float) -> None:
    """Within four standard deviations of what independent draws would give it: all or nothing at 1 and 0."""
    count = sum(arm_of(id_, "digest", share) == CANARY for id_ in IDS)
    assert abs(count - share * len(IDS)) <= 4 * math.sqrt(len(IDS) * share * (1 - share))


# Those of another program, or of a later version of this one, have to be the same: a restart changes no arm.
@pytest.mark.parametrize(
    ("session", "canary", "place"),
    [
        ("a", "digest", 0.346483854825),
        ("b", "digest", 0.558877587647),
        ("a", "another", 0.870205497001),
        ("é/7", "", 0.752959397607),
    ],
)
def test_a_place_is_the_same_in_every_process(session: str, canary: str, place: float) -> None:
    assert place_of(session, canary) == pytest.approx(place, abs=1e-12)


def test_who_is_in_the_canary_stays_there_when_its_share_grows() -> None:
    for id_ in IDS[:1000]:
        arms = [arm_of(id_, "digest", share / 10) for share in range(11)]
        assert arms == sorted(arms)  # "active" before "canary"
        assert arms[0] == ACTIVE
        assert arms[-1] == CANARY


def test_the_next_canary_gets_other_sessions() -> None:
    """Of two canaries with a tenth each, as many sessions are in both as chance has there."""
    both = sum(place_of(id_, "one") < 0.1 and place_of(id_, "other") < 0.1 for id_ in IDS)
    assert 60 <= both <= 140


@pytest.mark.parametrize("canary", ["", "a" * 64, "0" * 64])
def test_places_are_spread_evenly(canary: str) -> None:
    """By the Kolmogorov-Smirnov statistic: 1.95 / sqrt(n) is passed by chance in 1 of 1,000 cases."""
    places = sorted(place_of(id_, canary) for id_ in IDS)
    count = len(places)
    distance = max(max((i + 1) / count - place, place - i / count) for i, place in enumerate(places))
    assert distance < 1.95 / math.sqrt(count)
    assert places[0] >= 0.0
    assert places[-1] < 1.0
