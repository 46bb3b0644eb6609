"""The rates of the last minutes by policy, for charts of a page that was just opened."""

from __future__ import annotations

from collections.abc import Mapping

EVERY_S = 5.0
# Five minutes: what a chart shows.
_MOST_SAMPLES = 60
# Unix time, answers a second, and the times of which half and 99 % were below, in milliseconds.
Sample = tuple[float, float, float, float]


class RateHistory:
    """Samples by policy, the oldest first; a policy without traffic has none at that time."""

    def __init__(self, samples: Mapping[str, list[Sample]] | None = None) -> None:
        self.samples: dict[str, list[Sample]] = dict(samples or {})

    def add(self, new: Mapping[str, Sample]) -> None:
        """Adds a sample of each policy that answers, and drops what is older than the last minutes."""
        for name, sample in new.items():
            self.samples[name] = [*self.samples.get(name, ())[-_MOST_SAMPLES + 1 :], sample]
        if new:
            oldest = max(sample[0] for sample in new.values()) - EVERY_S * _MOST_SAMPLES
            self.samples = {name: kept for name, kept in self.samples.items() if kept[-1][0] >= oldest}


def sampled(at: float, rates: Mapping[str, Mapping[str, float]]) -> dict[str, Sample]:
    """Returns a sample of each policy of `rates`: see `app.control.rates`."""
    return {
        name: (at, rate["answers_per_s"], rate.get("p50_ms", 0.0), rate.get("p99_ms", 0.0))
        for name, rate in rates.items()
    }
