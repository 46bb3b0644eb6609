"""Clients of a fleet behind HAProxy: what each connection sees is checked as it comes."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.steady import threads_running, until

_TIMEOUT_S = 60.0
_PAUSE_S = 0.02
# A lease is renewed each second and lasts for three: a machine that stands still for longer may let it end.
STOOD_STILL_S = 1.5
_LOOK_S = 0.1
_WRONG_KEPT = 20
# Answers that say that a member, or all, could not be asked just now.
_REFUSALS = (502, 503, 504)


@dataclass(frozen=True)
class Expected:
    """Train steps that answers to requests may have which are sent from now on.

    `least`: that of the last reload that was answered; `most`: after a roll-back nothing newer than it. `era`: odd
    while steps may fall, which they do in a roll-back alone.
    """

    least: int = 0
    most: float = float("inf")
    era: int = 0


@dataclass
class FleetLoad:
    """What clients of a NumberPolicy saw. Only what is wrong is kept: answers from older or torn weights.

    `lost`: connections that ended in a request; `refused`: statuses of `_REFUSALS`; `refused_newest`: the same, of
    requests for the newest weights. None is wrong where members are killed. `names`: versions not called by their step.
    `stood_still_s`: for how long nothing ran here, at most.
    """

    expected: Expected = field(default_factory=Expected)
    answers: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    refused_newest: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    stood_still_s: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def is_wrong(self, what: str) -> None:
        """Keeps it, among the first."""
        if len(self.wrong) < _WRONG_KEPT:
            self.wrong.append(what)

    @property
    def failed(self) -> int:
        return self.lost.total() + self.refused.total() + self.refused_newest.total()

    @property
    def stood_still(self) -> bool:
        """Whether the machine did, for longer than leases bear: then some may be refused."""
        return self.stood_still_s > STOOD_STILL_S

    def watch(self) -> None:
        """Notes how long the machine stands still, until all is over."""
        last = time.clock_gettime(time.CLOCK_BOOTTIME)
        while not self.over.wait(_LOOK_S):
            before, last = last, time.clock_gettime(time.CLOCK_BOOTTIME)
            self.stood_still_s = max(self.stood_still_s, last - before - _LOOK_S)

    def acknowledged(self, step: int) -> None:
        """A reload to this train step was answered."""
        self.expected = replace(self.expected, least=step)

    @contextmanager
    def rolling_back(self, step: int) -> Iterator[None]:
        """Within, everything goes back to this train step; afterwards nothing newer answers, until `go_on`."""
        era = self.expected.era
        self.expected = Expected(step, era=era + 1)
        yield
        self.expected = Expected(step, step, era + 2)

    def go_on(self) -> None:
        """Newer weights may come again."""
        self.expected = replace(self.expected, most=float("inf"))

    def more(self, count: int) -> None:
        """Waits for so many more answers, or for something wrong."""
        goal = self.answers.total() + count
        until(lambda: self.answers.total() >= goal or self.wrong, f"{count} more answers")

    def check(self, answer: dict[str, Any], mark: int, sent: Expected, seen: "Seen") -> None:
        """Notes an answer, or what is wrong with it."""
        step, version = answer["train_step"], answer["version"]
        now = self.expected
        whole = answer["action"] == [1000 * step + mark] * 2
        named = self.names.get(version, 0 if version == "export" else -1) == step or version == f"{step:010d}"
        if not whole or not named:
            self.is_wrong(f"torn: {answer}, mark {mark}")
        elif step < sent.least and sent.era == now.era:
            self.is_wrong(f"old: {answer}, after {sent.least} was acknowledged")
        elif step > max(sent.most, now.most):
            self.is_wrong(f"rolled back from: {answer}, after a roll-back to {sent.most}")
        elif seen.era == now.era == sent.era and now.era % 2 == 0 and step < seen.step:
            self.is_wrong(f"falling: {answer}, after {seen.step} on the same connection")
        else:
            self.answers[step] += 1
        if sent.era == now.era:
            seen.step, seen.era = step, now.era


@dataclass
class Seen:
    """The last train step on one connection, and its era."""

    step: int = -1
    era: int = -1


class _Client(threading.Thread):
    """Asks and asks on one connection, and on another one once that has ended. Odd ones ask for the newest weights."""

    def __init__(self, port: int, load: FleetLoad, mark: int, pause_s: float) -> None:
        super().__init__(name=f"client-{mark}", daemon=True)
        self._port, self._load, self._mark, self._pause_s = port, load, mark, pause_s

    def run(self) -> None:
        while not self._load.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
            try:
                connection.connect()
                connection.auto_open = 0  # another connection begins with other rights
                seen = Seen()
                while not self._load.over.wait(self._pause_s) and self._ask(connection, seen):
                    pass
            except (OSError, http.client.HTTPException) as error:
                self._load.lost[type(error).__name__] += 1
                self._load.over.wait(0.1)
            except Exception as error:
                self._load.is_wrong(repr(error))
                return
            finally:
                connection.close()

    def _ask(self, connection: http.client.HTTPConnection, seen: Seen) -> bool:
        """One request; returns whether the connection stays."""
        sent, began = self._load.expected, time.monotonic()
        options = {"min_train_step": sent.least} if self._mark % 2 else {}
        body = json.dumps({"observation": [self._mark, 0, 0, 0], "options": options})
        connection.request("POST", "/v1/policies/p/action", body)
        response = connection.getresponse()
        content = response.read()
        self._load.slowest_s = max(self._load.slowest_s, time.monotonic() - began)
        if response.status == 200:
            self._load.check(json.loads(content), self._mark, sent, seen)
        elif response.status in _REFUSALS:
            (self._load.refused_newest if options else self._load.refused)[response.status] += 1
        elif response.status == 409 and options and sent.era != self._load.expected.era:
            pass  # it asked for weights from which all have gone back meanwhile
        else:
            self._load.is_wrong(f"{response.status}: {content[:300]!r}")
        return connection.sock is not None


@contextmanager
def fleet_load(port: int, clients: int = 4, pause_s: float = _PAUSE_S, **names: int) -> Iterator[FleetLoad]:
    """Clients that ask 127.0.0.1:`port` while the block runs, of which each has had some answers when it begins."""
    load = FleetLoad(names=names)
    threads = [threading.Thread(target=load.watch), *(_Client(port, load, mark, pause_s) for mark in range(clients))]
    with threads_running(threads, load.over):
        load.more(10 * clients)
        yield load
