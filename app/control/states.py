"""The states of a version, and what is shown of it.

    found ──► loaded ──► verified ──► active ──► draining ──► released
      └──────────┴───────────┴────► refused

`found`: seen in the folder. `loaded`: its files were copied, read and restored into the builder's copy.
`verified`: it answers probe inputs as its spec says; the workers make it ready. A version that is only tried beside the
active one stays verified, and is released where its trial ends without a judgement. `active`: new batches run on it.
`draining`: it finishes the batches that began on it. `released`: nothing runs on it. `refused`: it may not serve, and
`reason` says why. A version that was released or refused may be found again, when someone asks for it by name.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.errors import readable

# Beside the states in `Version.times`: the start of a swap.
WANTED = "wanted"


class State(enum.Enum):
    """See the drawing above."""

    FOUND = "found"
    LOADED = "loaded"
    VERIFIED = "verified"
    ACTIVE = "active"
    DRAINING = "draining"
    RELEASED = "released"
    REFUSED = "refused"


_LEGAL = {
    State.FOUND: {State.LOADED, State.REFUSED},
    State.LOADED: {State.VERIFIED, State.REFUSED},
    State.VERIFIED: {State.ACTIVE, State.REFUSED, State.RELEASED},
    State.ACTIVE: {State.DRAINING},
    State.DRAINING: {State.RELEASED},
    State.RELEASED: {State.FOUND},
    State.REFUSED: {State.FOUND},
}


@dataclass
class Version:
    """One set of weights. `name` is its checkpoint's folder name; with `digest` it is its identity.

    `refused_stamp` is the state of the files that was refused: files that have changed since are worth another try.
    `seen_at` is Unix time in seconds; `times` has the Unix time at which each state
    began, and at which the last swap to it did ("wanted"). `observer` is called after each of these, with its name.
    """

    name: str
    digest: str
    train_step: int
    engine: str = ""
    reason: str = ""
    state: State = State.FOUND
    refused_stamp: object = None
    seen_at: float = field(default_factory=time.time)
    times: dict[str, float] = field(default_factory=dict)
    observer: Callable[[Version, str], None] = field(default=lambda *_: None, repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this version: other bytes under the same name are another one."""
        return self.name, self.digest

    def move(self, state: State, reason: str = "", at: float | None = None) -> None:
        """Changes the state, alone in doing so; an illegal step is a bug. `at`: Unix time, now if it is not given."""
        if state not in _LEGAL[self.state]:
            raise AssertionError(f"version {self.name}: {self.state.value} → {state.value} is not a legal step")
        self.state, self.reason = state, readable(reason)
        self._note(state.value, at)

    def want(self) -> None:
        """Records the start of a swap to this version."""
        self.find()
        self._note(WANTED)

    def find(self) -> None:
        """Has the version begin anew, whatever became of it before."""
        if self.state is State.VERIFIED:  # it was tried
            self.move(State.RELEASED)
        if self.state is not State.FOUND:
            self.move(State.FOUND)

    def stages(self) -> dict[str, float]:
        """Seconds that each step to serving took: loaded (since it was wanted), verified, active."""
        steps = (WANTED, "loaded", "verified", "active")
        times = [self.times[step] for step in steps if step in self.times]
        return {step: after - before for step, before, after in zip(steps[1:], times, times[1:], strict=False)}

    def _note(self, name: str, at: float | None = None) -> None:
        self.times[name] = time.time() if at is None else at
        self.observer(self, name)

    def public(self) -> dict[str, Any]:
        """Returns what `GET …/versions` shows."""
        return {
            "version": readable(self.name),
            "digest": self.digest,
            "state": self.state.value,
            "reason": self.reason,
            "train_step": self.train_step,
            "engine": self.engine,
            "seen_at": self.seen_at,
        }
