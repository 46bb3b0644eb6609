"""The choice of requests to trace, by OpenTelemetry's variables, before anything is made. Pure but for chance."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from typing import NamedTuple

from app.tracing.context import Parent

log = logging.getLogger("policy_server.tracing")

_KIND, _ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_DEFAULT = "parentbased_always_on"
# Whether a sampler follows the caller's decision, and its rate; None: that of the argument.
_KINDS: Mapping[str, tuple[bool, float | None]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
# As in OpenTelemetry, these bits of a trace's id decide, so that all who see it decide alike.
_BITS = 2**64


class Sampler(NamedTuple):
    """`follows`: whether the caller's decision counts, where there is one. `rate`: of the other requests, 0 to 1."""

    follows: bool
    rate: float

    @property
    def bound(self) -> int:
        """Below this, the last 64 bits of a trace's id say that it is sampled."""
        return round(self.rate * _BITS)

    def takes(self, parent: Parent) -> bool:
        """Returns whether a request with this caller is traced."""
        return parent.sampled if self.follows else parent.trace_id % _BITS < self.bound

    def passed_over(self) -> int:
        """Returns how many requests without a caller are not traced before the next one that is; by chance."""
        if self.rate >= 1:
            return 0
        return int(math.log(1 - random.random()) / math.log1p(-self.rate))


def sampler_from(variables: Mapping[str, str]) -> Sampler:
    """Makes the sampler that the variables name; what cannot be used is logged and ignored, as OpenTelemetry says."""
    kind = variables.get(_KIND, "").strip().lower() or _DEFAULT
    if kind not in _KINDS:
        log.warning("%s is %r, expected one of %s: %s is used", _KIND, kind, ", ".join(_KINDS), _DEFAULT)
        kind = _DEFAULT
    follows, rate = _KINDS[kind]
    return Sampler(follows, _rate(variables) if rate is None else rate)


def _rate(variables: Mapping[str, str]) -> float:
    given = variables.get(_ARGUMENT, "").strip()
    try:
        rate = float(given or 1)
    except ValueError:
        rate = math.nan
    if 0 <= rate <= 1:
        return rate
    log.warning("%s is %r, expected a number from 0 to 1: 1 is used", _ARGUMENT, given)
    return 1.0


def trace_id_below(bound: int) -> int:
    """Returns the id of a trace that starts here, and is sampled by this bound."""
    return random.getrandbits(64) << 64 | random.getrandbits(64) % bound or 1
