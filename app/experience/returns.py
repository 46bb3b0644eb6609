"""The returns of episodes as rows come: how many episodes ended under each version, and their mean return."""

from __future__ import annotations

import numpy as np

from app.experience.arrow import Rows
from app.experience.environments import NO_EPISODE
from app.inputs.defaults import FIRST, LAST
from app.rpc.messages import VersionReturns
from app.wire.tensors import Array

# Of episodes that have not ended, and of versions, the newest are kept.
_MOST_EPISODES, _MOST_VERSIONS = 65_536, 12


class Returns:
    """Adds up rewards by episode; an episode counts for the version that gave its last action.

    One thread adds; others may ask for what is newest.
    """

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._versions: dict[str, tuple[int, float]] = {}

    def add(self, rows: Rows, episodes: Array) -> None:
        """Takes rows in their order, [rows] with their episodes; one whose start was not among them is left out."""
        reward = rows.get("reward")
        if not isinstance(reward, np.ndarray) or reward.ndim != 1:
            return  # of several rewards a step there is no one return
        kinds, following = np.asarray(rows["step_type"]), np.asarray(rows["next_step_type"])
        known = episodes != NO_EPISODE
        self._sums.update(dict.fromkeys(episodes[known & (kinds == FIRST)].tolist(), 0.0))
        numbers, places = np.unique(episodes[known], return_inverse=True)
        gained = np.bincount(places, np.asarray(reward, np.float64)[known], len(numbers))
        for number, gain in zip(numbers.tolist(), gained.tolist(), strict=True):
            if number in self._sums:
                self._sums[number] += gain
        for place in np.flatnonzero(known & (following == LAST)).tolist():
            total = self._sums.pop(int(episodes[place]), None)
            if total is not None:
                self._ended(rows["version"][place], total)
        while len(self._sums) > _MOST_EPISODES:
            del self._sums[next(iter(self._sums))]

    def newest(self) -> list[VersionReturns]:
        """Returns the versions under which an episode ended of late, the newest last."""
        versions = self._versions.copy()  # in one step, so that no other thread adds to it meanwhile
        return [VersionReturns(name, count, total / count) for name, (count, total) in versions.items()]

    def _ended(self, version: str, gained: float) -> None:
        count, total = self._versions.pop(version, (0, 0.0))
        self._versions[version] = count + 1, total + gained
        while len(self._versions) > _MOST_VERSIONS:
            del self._versions[next(iter(self._versions))]
