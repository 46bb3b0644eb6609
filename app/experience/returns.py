"""The returns of episodes as rows come: how many episodes ended under each version, and their mean return."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from app.experience.arrow import Rows
from app.rpc.messages import VersionReturns

_FIRST, _LAST = 0, 2
# Of environments in an episode, and of versions, the newest are kept.
_MOST_ENVIRONMENTS, _MOST_VERSIONS = 65_536, 12
_Environment = tuple[str, str, int]


class Returns:
    """Adds up rewards by environment; an episode counts for the version that gave its last action."""

    def __init__(self) -> None:
        self._sums: OrderedDict[_Environment, float] = OrderedDict()
        self._versions: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, rows: Rows) -> None:
        """Takes rows in their order. Episodes whose start was not recorded are left out."""
        reward = np.asarray(rows["reward"], np.float64)
        if reward.ndim != 1:
            return  # of several rewards a step there is no one return
        columns = [np.asarray(rows[name]).tolist() for name in ("row", "step_type", "next_step_type")]
        environments = zip(rows["session"], rows["incarnation"], columns[0], strict=True)
        for environment, kind, following, version, gained in zip(
            environments, columns[1], columns[2], rows["version"], reward.tolist(), strict=True
        ):
            before = 0.0 if kind == _FIRST else self._sums.pop(environment, None)
            if before is None or kind == _LAST:
                continue
            if following == _LAST:
                self._ended(version, before + gained)
            else:
                self._sums[environment] = before + gained
        while len(self._sums) > _MOST_ENVIRONMENTS:
            self._sums.popitem(last=False)

    def newest(self) -> list[VersionReturns]:
        """Returns the versions under which an episode ended of late, the newest last."""
        return [VersionReturns(name, count, total / count) for name, (count, total) in self._versions.items()]

    def _ended(self, version: str, gained: float) -> None:
        count, total = self._versions.pop(version, (0, 0.0))
        self._versions[version] = count + 1, total + gained
        while len(self._versions) > _MOST_VERSIONS:
            self._versions.popitem(last=False)
