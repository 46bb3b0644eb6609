"""The last swaps of all policies, each with its stages, as the console shows them. Event loop only."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from app.control.states import WANTED, State, Version

# Those of a few minutes where a trainer publishes often; a page has room for no more.
_MOST_SWAPS = 50
_STAGES = (State.LOADED.value, State.VERIFIED.value, State.ACTIVE.value)


class SwapLog:
    """Follows versions. `swaps`: what is to be shown of each, by a number that grows; none is changed in place.

    `changed` is called after each change.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.swaps: dict[str, dict[str, Any]] = {}
        self.changed = changed
        self._numbers = count(1)
        # By policy: the swap under way and its version, the one that was last, and what serves.
        self._running: dict[str, tuple[str, Version]] = {}
        self._last: dict[str, str] = {}
        self._active: dict[str, str] = {}
        # The swaps that wait for an older version to drain, by policy and the identity of that version.
        self._drains: dict[tuple[str, tuple[str, str]], str] = {}

    def observe(self, policy: str, version: Version, name: str) -> None:
        """Notes what has begun for a version: see `Version.observer`."""
        if name == WANTED:
            self._begin(policy, version)
        elif name == State.DRAINING.value:
            self._drains[policy, version.key] = self._last.get(policy, "")
        elif name == State.RELEASED.value:
            self._drained(policy, version)
        elif self._running.get(policy, ("", None))[1] is version:  # others may be refused meanwhile
            self._proceed(policy, version, name)
        self.changed()

    def serves(self, policy: str) -> bool:
        """Returns whether a version of the policy serves, or has served."""
        return policy in self._active

    def step(self, policy: str, name: str, seconds: float) -> None:
        """Notes a step of the builder that is done."""
        number, _ = self._running.get(policy, ("", None))
        if number in self.swaps:
            self._update(number, steps={**self.swaps[number]["steps"], name: _rounded(seconds)})
            self.changed()

    def _begin(self, policy: str, version: Version) -> None:
        if policy in self._running:  # it ended by an error, and not by a refusal
            self._update(self._running.pop(policy)[0], state="refused", reason="it was given up")
        number = str(next(self._numbers))
        self._running[policy] = number, version
        previous = {"previous": self._active[policy]} if policy in self._active else {}
        began = {"policy": policy, "began_at": version.times[WANTED], "state": "preparing", "stages": {}, "steps": {}}
        self.swaps[number] = {**began, **_of(version), **previous}
        while len(self.swaps) > _MOST_SWAPS:
            del self.swaps[next(iter(self.swaps))]

    def _proceed(self, policy: str, version: Version, name: str) -> None:
        number, _ = self._running[policy]
        if name == State.REFUSED.value:
            del self._running[policy]
            self._end(number, version.times[name], state="refused", reason=version.reason)
        elif name == State.ACTIVE.value:
            del self._running[policy]
            self._stage(number, version, name)
            if policy not in self._active:  # nothing is there to drain
                self._end(number, version.times[name], state="done")
            self._last[policy], self._active[policy] = number, version.name
        elif name != State.FOUND.value:
            self._stage(number, version, name)

    def _drained(self, policy: str, version: Version) -> None:
        number = self._drains.pop((policy, version.key), "")
        if number in self.swaps:
            ended, began = version.times[State.RELEASED.value], version.times[State.DRAINING.value]
            stages = {**self.swaps[number]["stages"], "drained": _rounded(ended - began)}
            self._end(number, ended, state="done", stages=stages)

    def _stage(self, number: str, version: Version, state: str) -> None:
        # Those behind it are of the time before, where the version serves again.
        done = _STAGES[: _STAGES.index(state) + 1]
        stages = {name: _rounded(seconds) for name, seconds in version.stages().items() if name in done}
        self._update(number, state=state, stages=stages, **_of(version))

    def _end(self, number: str, at: float, **fields: Any) -> None:
        if number in self.swaps:
            self._update(number, took_s=_rounded(at - self.swaps[number]["began_at"]), **fields)

    def _update(self, number: str, **fields: Any) -> None:
        if number in self.swaps:
            self.swaps[number] = {**self.swaps[number], **fields}


def _of(version: Version) -> dict[str, Any]:
    return {"version": version.name, "train_step": version.train_step, "engine": version.engine}


def _rounded(seconds: float) -> float:
    return round(max(0.0, seconds), 6)
