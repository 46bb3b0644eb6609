"""The returns of two arms → to stop the canary, to promote it, or to wait. Pure.

Whatever else stops one (a failed request, a crash, a deletion, an operator): see `app.control.traffic`.

Looks that go on until something is found find something: Welch's test at every look stops every third equal canary
or more. In its place is a bound on all looks together, a confidence sequence: with a chance of at least 95 %, no look
at all shows more than the bound where there is nothing to show. It is the normal mixture of Robbins, "Statistical
Methods Related to the Law of the Iterated Logarithm" (1970), in its form for one side and an estimated variance:
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 52 (2024). It comes to some three standard errors.

For both arms the larger of the two variances counts. The mean of few returns from a skewed distribution is low just
where their variance is low too, and a bound from their own variance is passed too often: by an equal canary with
exponentially distributed returns in 11 of 100 runs, and where one episode in fifty has all the return in 44.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from app.returns import Returns

ERROR = 0.05
# Of each arm, before the first look: sums of fewer returns are not normal enough.
LEAST_EPISODES = 30
# The bound is tightest after about so many episodes of the canary, and little wider at a third and at ten times that.
_TIGHTEST_AT = 100
# Sums of equal returns differ by their rounding, where all returns of both arms are the same.
_ROUNDING = 1e-9
_RHO_SQUARED = (-2 * math.log(2 * ERROR) + math.log(1 - 2 * math.log(2 * ERROR))) / _TIGHTEST_AT


class Action(StrEnum):
    """What is to be done with a canary."""

    STOP = "stop"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Rule:
    """What an operator asked for; None leaves it to people.

    `stop_if_return_drops`: the share of the active version's mean return that the canary's may be lower by.
    `promote_after_episodes`: how many episodes of the canary have to end for it to become active.
    """

    stop_if_return_drops: float | None = None
    promote_after_episodes: int | None = None


@dataclass(frozen=True)
class Decision:
    """What is to be done, and why: a sentence for a person."""

    action: Action
    reason: str


@dataclass(frozen=True)
class Drop:
    """By how much the canary's mean return lies below the least that is allowed, and how much would be chance.

    `allowed`: the least mean return, by the active version's. `below`: what the canary's lacks of it. `bound`: what
    `below` exceeds at any of all looks in 5 of 100 cases at most, where the canary's true mean is the least or higher.
    """

    allowed: float
    below: float
    bound: float


def decide(active: Returns, canary: Returns, rule: Rule) -> Decision | None:
    """Decides on a canary by the episodes so far; None: it goes on. It may be asked as often as one likes.

    To stop comes first: a canary is not promoted by the episode that shows it to be worse.
    """
    drop = None
    if rule.stop_if_return_drops is not None:
        drop = measure_drop(active, canary, rule.stop_if_return_drops)
        if drop is not None and drop.below > drop.bound:
            return Decision(Action.STOP, _why_stopped(active, canary, drop, rule.stop_if_return_drops))
    wanted = rule.promote_after_episodes
    if wanted is not None and canary.episodes >= wanted:
        return Decision(Action.PROMOTE, _why_promoted(active, canary, drop, rule))
    return None


def measure_drop(active: Returns, canary: Returns, share: float) -> Drop | None:
    """Measures a drop by more than `share` of the active version's mean; None before there are enough returns."""
    if min(active.count, canary.count) < LEAST_EPISODES:
        return None
    # A return of -200 may drop to -220, not to -180.
    weight = 1 - share if active.mean >= 0 else 1 + share
    allowed = weight * active.mean
    variance = max(active.returns.variance, canary.returns.variance)
    # As many returns of the canary would say the same beside a mean that is known exactly.
    count = 1 / (weight * weight / active.count + 1 / canary.count)
    bound = math.sqrt(variance / count) * standard_errors(count)
    return Drop(allowed, allowed - canary.mean, max(bound, _ROUNDING * abs(active.mean)))


def standard_errors(count: float) -> float:
    """Returns the bound after so many returns, in standard errors of their mean."""
    growth = count * _RHO_SQUARED
    return math.sqrt(2 * (growth + 1) / growth * math.log1p(math.sqrt(growth + 1) / (2 * ERROR)))


def _why_stopped(active: Returns, canary: Returns, drop: Drop, share: float) -> str:
    return (
        f"the mean return of the canary, {_shown(canary)}, is lower than that of the active version, {_shown(active)}, "
        f"by more than {share * 100:g} %: it lacks {drop.below:.4g} of {drop.allowed:.4g}, and chance explains "
        f"{drop.bound:.4g} at most (95 % confidence over all looks)"
    )


def _why_promoted(active: Returns, canary: Returns, drop: Drop | None, rule: Rule) -> str:
    ended = f"{canary.episodes:,} episodes of the canary have ended, of {rule.promote_after_episodes:,} asked for"
    if not canary.count or not active.count:
        return f"{ended}; they say nothing of returns, as not both arms have rewards"
    means = f"mean return {_shown(canary)}, that of the active version {_shown(active)}"
    if rule.stop_if_return_drops is None:
        return f"{ended}; {means}"
    limit = f"{rule.stop_if_return_drops * 100:g} %"
    if drop is None:
        return f"{ended}; {means}: too few to see a drop by more than {limit}, which takes {LEAST_EPISODES} of each"
    if drop.below <= 0:
        return f"{ended}; {means}: not lower by more than {limit}"
    return f"{ended}; {means}: lower by more than {limit}, by {drop.below:.4g}, which may be chance ({drop.bound:.4g})"


def _shown(arm: Returns) -> str:
    """As "412.3 ± 8.1 (132 episodes)"; what follows ± is the standard error."""
    error = f" ± {arm.stderr:.2g}" if math.isfinite(arm.stderr) else ""
    return f"{arm.mean:.4g}{error} ({arm.count:,} episode{'' if arm.count == 1 else 's'})"
