"""The words that the rest speaks in: a sample of each turn, a row of them, and medians and ratios of rows. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One turn of one competitor. `rate` is good answers a second; latency is theirs.

    `resident_mb` is what all processes of the server hold, `worker_mb` the largest that answers (0: it has none).
    `idle_cores` is what all other servers together used meanwhile. `refused` were turned away by a 429, and are no
    failures where that is asked for; `maximum` is the rate that was doubled then.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    resident_mb: float
    worker_mb: float = 0
    failures: int = 0
    idle_cores: float = 0
    swaps: int = 0
    maximum: float = 0
    refused: int = 0
    refused_p50_ms: float = -1
    refused_p99_ms: float = -1


@dataclass
class Row:
    """All turns of a competitor in a scenario; `problem` says why there are none, or no more. A guest may fail."""

    scenario: str
    competitor: str
    samples: list[Sample] = field(default_factory=list)
    problem: str = ""
    guest: bool = False

    def median(self, figure: str) -> float:
        """Of all turns."""
        return float(statistics.median(getattr(sample, figure) for sample in self.samples))

    def total(self, figure: str) -> int:
        """Of all turns."""
        return sum(getattr(sample, figure) for sample in self.samples)

    def most(self, figure: str) -> float:
        """Of all turns."""
        return float(max(getattr(sample, figure) for sample in self.samples))

    def ratio(self, other: Row | None, figure: str) -> float | None:
        """The median of the rounds' ratios to another row; what slows the machine for a while slows both."""
        if other is None:
            return None
        both = zip(self.samples, other.samples, strict=False)
        ratios = [getattr(ours, figure) / getattr(theirs, figure) for ours, theirs in both if getattr(theirs, figure)]
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Start:
    """One start of a server with a warm cache: seconds to its first answer, and what its worker holds then."""

    ready_s: float
    worker_mb: float


@dataclass
class Results:
    """Everything of one run."""

    rows: list[Row] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def row(self, scenario: str, competitor: str) -> Row | None:
        """The row with figures; None where there is none."""
        for row in self.rows:
            if (row.scenario, row.competitor) == (scenario, competitor) and row.samples:
                return row
        return None

    @property
    def failures(self) -> int:
        """Requests without a good answer, but those of guests."""
        return sum(row.total("failures") for row in self.rows if not row.guest)
