"""What the server recorded → transitions to learn from. A thread reads behind a cursor; the trainer waits in `take`.

NumPy only. Every row that simulators caused is read, and each once: `Stream` counts what is missing or double.
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from demo.messages import POLICY, DemoError, Transitions
from policy_client import Experience, PolicyError
from policy_client.fields import LAST
from policy_client.windows import Environment, by_environment

_LOGITS = "policy_info/dist_params/logits"
_COLUMNS = ("step_type", "observation", "action", _LOGITS, "next_step_type", "reward", "discount", "train_step", "step")
_WAIT_MS = 500
_HEALTH_EVERY_S = 0.5
_SILENCE_S = 60.0
_Rows = dict[str, Any]


class Stream:
    """Reads the experience of the server at `address`. Use as a context.

    Attributes:
      rows: how many were read.
      double, missing: how many came twice, and how many never came although later ones of their environment did.
      unused: transitions that nothing was learned from: newer ones were there.
    """

    def __init__(self, address: str) -> None:
        self.rows = self.double = self.missing = self.unused = 0
        self._experience = Experience(address, POLICY, wait_ms=_WAIT_MS)
        self._arrived = threading.Condition()
        self._environments: dict[Environment, list[_Rows]] = {}
        self._next_step: dict[Environment, int] = {}
        self._waiting = 0
        self._failure = ""
        self._thread = threading.Thread(target=self._read, name="experience", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._experience.is_closed = True
        self._thread.join()
        self._experience.close()

    def take(self, count: int, oldest_train_step: int, check: Callable[[], None]) -> Transitions:
        """Waits for `count` transitions, none of weights from before `oldest_train_step`; returns the newest so many.

        As many of each environment, as far as they go; what is older is dropped. The last row of each environment
        stays: what follows it is not known yet.

        Raises:
          DemoError: when nothing that can be used has come for a long time, or the server has no experience; and what
            `check` raises.
        """
        deadline = time.monotonic() + _SILENCE_S
        with self._arrived:
            while True:
                if self._waiting >= count:
                    played = [_transitions_of(_joined(rows)) for rows in self._environments.values()]
                    usable = [_where(one, one.train_step >= oldest_train_step) for one in played]
                    if sum(len(one.reward) for one in usable) >= count:
                        return self._taken(played, usable, _share(count, [len(one.reward) for one in usable]))
                self._arrived.wait(_HEALTH_EVERY_S)
                check()
                if self._failure:
                    raise DemoError(f"the experience cannot be read: {self._failure}")
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"no {count} transitions of train step {oldest_train_step} or newer within "
                        f"{_SILENCE_S:.0f} s: does the server swap, and record?"
                    )

    def wait_for(self, rows: int, seconds: float) -> None:
        """Returns when so many rows were read, or after so many seconds."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while self.rows < rows and time.monotonic() < deadline:
                self._arrived.wait(_HEALTH_EVERY_S)

    def _taken(self, played: list[Transitions], usable: list[Transitions], most: int) -> Transitions:
        """At most so many of each environment, the newest; nothing but the last row of each is left."""
        newest = [Transitions._make(array[-most:] for array in one) for one in usable]
        found = Transitions._make(np.concatenate(arrays) for arrays in zip(*newest, strict=True))
        self.unused += sum(len(one.reward) for one in played) - len(found.reward)
        for environment, rows in self._environments.items():
            self._environments[environment] = [{name: array[-1:] for name, array in rows[-1].items()}]
        self._waiting = 0
        return found

    def _read(self) -> None:
        while not self._experience.is_closed:
            try:
                batch = self._experience.read()
            except PolicyError as error:
                with self._arrived:
                    self._failure = str(error)
                    self._arrived.notify_all()
                return
            with self._arrived:
                if batch.rows:
                    self._add(batch.columns)
                self._arrived.notify_all()

    def _add(self, columns: Mapping[str, Any]) -> None:
        self.rows += len(columns["step"])
        self._waiting += int((columns["step_type"] != LAST).sum())
        for environment, places in by_environment(columns):
            self._count(environment, columns["step"][places])
            rows = {name: columns[name][places] for name in _COLUMNS}
            self._environments.setdefault(environment, []).append(rows)

    def _count(self, environment: Environment, steps: Any) -> None:
        expected = self._next_step.get(environment, 0)
        for step in steps.tolist():
            self.double += step < expected
            self.missing += max(0, step - expected)
            expected = max(expected, step + 1)
        self._next_step[environment] = expected


def _share(count: int, there: list[int]) -> int:
    """How many to take of each environment at most, so that there are `count` of all; `there`: how many each has."""
    share = 0
    for left, has in zip(range(len(there), 0, -1), sorted(there), strict=True):
        share = -(-count // left)
        if has >= share:
            break
        count -= has
    return share


def _joined(pieces: list[_Rows]) -> _Rows:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in _COLUMNS}


def _transitions_of(rows: _Rows) -> Transitions:
    """The rows of one environment but the last, each with the observation that follows; not those between episodes."""
    now = {name: array[:-1] for name, array in rows.items()}
    ended = now["next_step_type"] == LAST
    is_played = now["step_type"] != LAST
    last = np.zeros(len(ended), np.bool_)
    last[np.flatnonzero(is_played)[-1:]] = True
    found = Transitions(
        observation=now["observation"],
        action=now["action"],
        logits=now[_LOGITS],
        reward=now["reward"],
        next_observation=rows["observation"][1:],
        terminated=ended & (now["discount"] == 0),
        truncated=ended & (now["discount"] != 0),
        last=last,
        train_step=now["train_step"],
    )
    return _where(found, is_played)


def _where(transitions: Transitions, chosen: Any) -> Transitions:
    return Transitions._make(array[chosen] for array in transitions)
