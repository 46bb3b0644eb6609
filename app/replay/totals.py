"""What was found of the rows of a recording: sums over those that one version has answered."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from app.traffic.comparison import Compared, Numbers


@dataclass
class Totals:
    """What was found of the rows that one version has answered.

    Rows by kind: `greedy` (or acting as saved, without a draw), `seeded`, and `sampled` without a seed, which cannot
    be compared one by one. `equal`, `close`, `agree`: how many of the others, see `Compared`. `log_prob`: of the
    sampled actions now; `log_prob_apart`: its absolute difference from the recorded one.
    """

    greedy: int = 0
    seeded: int = 0
    sampled: int = 0
    equal: int = 0
    close: int = 0
    agree: int = 0
    differences: dict[str, Numbers] = field(default_factory=dict)
    divergence: Numbers = field(default_factory=Numbers)
    log_prob: Numbers = field(default_factory=Numbers)
    log_prob_apart: Numbers = field(default_factory=Numbers)

    @property
    def compared(self) -> int:
        """The rows that were compared one by one."""
        return self.greedy + self.seeded

    @property
    def rows(self) -> int:
        """All rows."""
        return self.compared + self.sampled

    @property
    def agreement(self) -> float:
        """The share of compared rows that agree; NaN where none were compared."""
        return self.agree / self.compared if self.compared else math.nan

    def add(self, found: Compared, seeded: int) -> None:
        """Adds compared rows, of which so many are seeded."""
        self.seeded += seeded
        self.greedy += len(found.equal) - seeded
        self.equal += int(found.equal.sum())
        self.close += int((found.equal | found.close).sum())
        self.agree += int(found.agree.sum())
        for name, apart in found.differences.items():
            self.differences.setdefault(name, Numbers()).add(apart)

    def include(self, other: Totals) -> None:
        """Adds those of another version."""
        for name in ("greedy", "seeded", "sampled", "equal", "close", "agree"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, numbers in other.differences.items():
            self.differences.setdefault(name, Numbers()).include(numbers)
        for name in ("divergence", "log_prob", "log_prob_apart"):
            getattr(self, name).include(getattr(other, name))

    @property
    def largest(self) -> float:
        """The largest difference of any action; NaN where none were compared."""
        return max((numbers.largest for numbers in self.differences.values()), default=math.nan)
