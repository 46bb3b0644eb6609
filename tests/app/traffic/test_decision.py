"""Decisions on a canary: a table of cases, and how often they are wrong over simulated runs."""

import math

import numpy as np
import pytest

from app.returns import Moments, Returns
from app.traffic.decision import LEAST_EPISODES, Action, Rule, decide, measure_drop, standard_errors
from tests.app.traffic.simulation import Draw, bounded, exponential, gaussian, jackpot, simulate, welch_false_stops

STOP, PROMOTE = Action.STOP, Action.PROMOTE


def arm(mean: float, deviation: float, count: int) -> Returns:
    """An arm with so many episodes of this mean return and standard deviation, 100 steps long."""
    return Returns(Moments(count, mean, deviation**2 * (count - 1)), Moments(count, 100.0))


@pytest.mark.parametrize(
    ("active", "canary", "rule", "expected"),
    [
        # Clearly lower: with enough episodes, and by a rule that asks for it.
        (arm(500, 50, 900), arm(300, 50, 100), Rule(0.1), STOP),
        (arm(500, 50, 900), arm(300, 50, 100), Rule(), None),
        (arm(500, 50, 900), arm(300, 50, 100), Rule(0.5), None),
        (arm(500, 50, 900), arm(300, 50, LEAST_EPISODES), Rule(0.1), STOP),
        (arm(500, 50, 900), arm(300, 50, LEAST_EPISODES - 1), Rule(0.1), None),
        (arm(500, 50, LEAST_EPISODES - 1), arm(300, 50, 900), Rule(0.1), None),
        # Lower, but not by more than is allowed, or not clearly so.
        (arm(500, 50, 900), arm(455, 50, 100), Rule(0.1), None),
        (arm(500, 50, 900), arm(440, 50, 100), Rule(0.1), None),
        (arm(500, 50, 90_000), arm(440, 50, 10_000), Rule(0.1), STOP),
        (arm(500, 400, 900), arm(400, 400, 100), Rule(0.1), None),
        # The larger variance counts, whichever it is.
        (arm(500, 400, 900), arm(400, 5, 100), Rule(0.1), None),
        (arm(500, 5, 900), arm(400, 400, 100), Rule(0.1), None),
        # Negative returns: -1000 may drop to -1100.
        (arm(-1000, 100, 900), arm(-1090, 100, 100), Rule(0.1), None),
        (arm(-1000, 100, 900), arm(-1200, 100, 100), Rule(0.1), STOP),
        (arm(-1000, 100, 900), arm(-900, 100, 100), Rule(0.1), None),
        # Returns around zero, and any drop at all.
        (arm(0, 1, 900), arm(-2, 1, 100), Rule(0.1), STOP),
        (arm(0, 1, 900), arm(-0.2, 1, 100), Rule(0.0), None),
        (arm(10, 1, 9_000), arm(9.8, 1, 1_000), Rule(0.0), STOP),
        # All returns the same.
        (arm(500, 0, 900), arm(500, 0, 100), Rule(0.0), None),
        (arm(500, 0, 900), arm(500 - 1e-10, 0, 100), Rule(0.0), None),
        (arm(500, 0, 900), arm(499, 0, 100), Rule(0.0), STOP),
        (arm(0, 0, 900), arm(0, 0, 100), Rule(0.1), None),
        # Promotion: by finished episodes, unless the last one shows a drop.
        (arm(500, 50, 900), arm(500, 50, 100), Rule(0.1, 100), PROMOTE),
        (arm(500, 50, 900), arm(500, 50, 99), Rule(0.1, 100), None),
        (arm(500, 50, 900), arm(500, 50, 100), Rule(None, 100), PROMOTE),
        (arm(500, 50, 900), arm(300, 50, 100), Rule(0.1, 100), STOP),
        (arm(500, 50, 900), arm(300, 50, 100), Rule(None, 100), PROMOTE),
        (arm(500, 50, 900), arm(600, 50, 10), Rule(0.1, 10), PROMOTE),
        (Returns(), arm(600, 50, 10), Rule(0.1, 10), PROMOTE),
        # Without rewards: by episodes alone.
        (Returns(lengths=Moments(90, 9.0)), Returns(lengths=Moments(10, 9.0)), Rule(0.1, 10), PROMOTE),
        (Returns(lengths=Moments(900, 9.0)), Returns(lengths=Moments(100, 1.0)), Rule(0.1), None),
        (Returns(), Returns(), Rule(0.1, 1), None),
    ],
)
def test_decisions(active: Returns, canary: Returns, rule: Rule, expected: Action | None) -> None:
    decision = decide(active, canary, rule)
    assert (decision and decision.action) == expected


def test_reasons_give_both_means_their_errors_the_counts_and_the_bound() -> None:
    stopped = decide(arm(500, 50, 1_200), arm(400, 100, 100), Rule(0.1))
    assert stopped is not None
    assert stopped.reason == (
        "the mean return of the canary, 400 ± 10 (100 episodes), is lower than that of the active version, 500 ± 1.4 "
        "(1,200 episodes), by more than 10 %: it lacks 50 of 450, and chance explains 28.73 at most "
        "(95 % confidence over all looks)"
    )


@pytest.mark.parametrize(
    ("canary", "rule", "reason"),
    [
        (
            arm(510, 50, 100),
            Rule(0.1, 100),
            "100 episodes of the canary have ended, of 100 asked for; mean return 510 ± 5 (100 episodes), "
            "that of the active version 500 ± 1.7 (900 episodes): not lower by more than 10 %",
        ),
        (arm(440, 50, 100), Rule(0.1, 100), ": lower by more than 10 %, by 10, which may be chance (14.52)"),
        (arm(510, 50, 10), Rule(0.1, 10), ": too few to see a drop by more than 10 %, which takes 30 of each"),
        (arm(510, 50, 1), Rule(None, 1), "; mean return 510 (1 episode), that of the active version"),
        (
            Returns(lengths=Moments(1_234, 9.0)),
            Rule(0.1, 1_234),
            "1,234 episodes of the canary have ended, of 1,234 asked for; they say nothing of returns, "
            "as not both arms have rewards",
        ),
    ],
)
def test_a_promotion_says_what_the_returns_were(canary: Returns, rule: Rule, reason: str) -> None:
    decision = decide(arm(500, 50, 900), canary, rule)
    assert decision is not None
    assert reason in decision.reason


@pytest.mark.parametrize("count", [30, 100, 1_000, 1_000_000])
def test_the_bound_is_one_of_the_mixture(count: int) -> None:
    """Where it is passed, the mixture over half-normal drifts, a martingale that starts at 1, is 20 or more (Ville)."""
    rho_squared = (-2 * math.log(0.1) + math.log(1 - 2 * math.log(0.1))) / 100
    total = standard_errors(count) * math.sqrt(count)
    x = math.sqrt(rho_squared / (count * rho_squared + 1)) * total
    normal = (1 + math.erf(x / math.sqrt(2))) / 2
    mixture = 2 / math.sqrt(count * rho_squared + 1) * math.exp(x * x / 2) * normal
    assert 20 <= mixture < 22.5


@pytest.mark.parametrize("mean", [0.0, 1e-300, -5.0, 1e150])
@pytest.mark.parametrize("share", [0.0, 1.0, 100.0])
def test_any_returns_can_be_tested_with_any_share(mean: float, share: float) -> None:
    returns = arm(mean, abs(mean) / 10, LEAST_EPISODES)
    decision = decide(returns, returns, Rule(share, LEAST_EPISODES))
    assert decision is not None
    assert decision.action is PROMOTE
    assert math.isfinite(standard_errors(1e-12))


def test_the_bound_narrows_with_more_episodes_of_either_arm() -> None:
    bounds = [
        measure_drop(arm(500, 50, a), arm(500, 50, c), 0.1) for a, c in [(30, 30), (300, 30), (300, 300), (9_000, 900)]
    ]
    widths = [drop.bound for drop in bounds if drop is not None]
    assert len(widths) == 4
    assert widths == sorted(widths, reverse=True)


KINDS = [gaussian, exponential, bounded]
# Of the episodes of a canary that is lower by a fifth, so many show it in nearly all runs, whatever their distribution.
RULE = Rule(stop_if_return_drops=0.1, promote_after_episodes=2_400)


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int:
    return 200 if request.config.getoption("--full") else 12


@pytest.mark.parametrize("draw", KINDS)
def test_canaries_end_as_they_should_over_simulated_runs(draw: Draw, runs: int) -> None:
    lower, equal, higher = (simulate(draw, factor, RULE, runs) for factor in (0.8, 1.0, 1.2))
    half, nearly_all = np.quantile(lower.stopped_after, [0.5, 0.95])
    print(
        f"{draw.__name__}, {runs} runs each: 20 % lower: {lower.stopped} stopped, half of them after {half:.0f} "
        f"and 95 % after {nearly_all:.0f} episodes of the canary; equal: {equal.stopped} stopped, "
        f"{equal.promoted} promoted; 20 % higher: {higher.stopped} stopped, {higher.promoted} promoted"
    )
    assert lower.stopped >= min(0.95 * runs, runs - 1)
    assert equal.stopped <= 0.05 * runs
    assert equal.promoted == runs - equal.stopped
    assert higher.promoted == runs


@pytest.mark.parametrize("draw", [*KINDS, jackpot])
def test_false_stops_stay_below_the_promised_share_where_the_canary_is_only_just_not_worse(
    draw: Draw, request: pytest.FixtureRequest
) -> None:
    """At the border of what is allowed: equal and no drop allowed, lower by just as much, and with a larger share."""
    runs, episodes = (200, 26_000) if request.config.getoption("--full") else (100, 6_000)
    stops = {
        "equal, none allowed": simulate(draw, 1.0, Rule(0.0), runs, episodes).stopped,
        "lower by 10 %, 10 % allowed": simulate(draw, 0.9, Rule(0.1), runs, episodes).stopped,
        "equal, none allowed, share 0.9": simulate(draw, 1.0, Rule(0.0), runs, episodes, share=0.9).stopped,
    }
    welch = welch_false_stops(draw, runs, episodes)
    print(f"{draw.__name__}, false stops of {runs} runs each: {stops}; by Welch's test at every look: {welch}")
    assert max(stops.values()) <= 0.05 * runs
    assert welch > 0.05 * runs
