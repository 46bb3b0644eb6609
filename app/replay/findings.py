"""What became of the rows of a recording."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from app.replay.picture_data import Along, Joints
from app.replay.totals import Totals


@dataclass
class Findings:
    """What became of a recording's rows.

    `by_version`: of those that were answered again, by the name and train step of the version that answered then, and
    whether it has answered now too, with nothing of another version. `gone`: rows of versions that are not there.
    `unknown_state`: rows of which the policy state before is not known. `refused`: rows that the policy refused.
    `from_info`: the distributions then were recorded, in the policy's info.
    """

    along: Along
    joints: Joints
    by_version: dict[tuple[str, int, bool], Totals] = field(default_factory=dict)
    gone: Counter[str] = field(default_factory=Counter)
    unknown_state: int = 0
    refused: int = 0
    from_info: bool = False

    @property
    def answered(self) -> int:
        """The rows that were answered again."""
        return sum(totals.rows for totals in self.by_version.values())
