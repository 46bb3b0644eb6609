"""Time → the station that it was spent in. Stations are functions, wrapped; what a wrapper costs is taken off again."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from bench import BenchError

_CALLS = 20_000


@dataclass
class Stopwatch:
    """Charges all time between `to` and `stop` to stations; a wrapped function's to its own, but for others within it.

    `seconds`: by station, wrappers included. `entered`: how often a function of it was called; `called`: how often it
    called one of another station. `station`: the one that is charged now; `returns`: may choose another one when no
    wrapped function runs any more.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    entered: Counter[str] = field(default_factory=Counter)
    called: Counter[str] = field(default_factory=Counter)
    station: str = ""
    returns: Callable[[], None] = lambda: None
    depth: int = 0
    _since: float = 0.0

    def to(self, station: str) -> None:
        """Charges this station from now on."""
        self.station = station
        self._since = perf_counter()

    def stop(self) -> None:
        """Charges nothing from now on."""
        self.seconds[self.station] += perf_counter() - self._since

    def clear(self) -> None:
        """Forgets what was charged so far."""
        self.seconds.clear()
        self.entered.clear()
        self.called.clear()

    def wrapped(self, station: str, function: Callable[..., Any]) -> Any:
        """Returns the function as one of the station."""
        seconds, entered, called = self.seconds, self.entered, self.called

        @functools.wraps(function)
        def timed(*args: Any, **more: Any) -> Any:
            now = perf_counter()
            around = self.station
            seconds[around] += now - self._since
            entered[station] += 1
            called[around] += 1
            self.station = station
            self.depth += 1
            self._since = perf_counter()
            try:
                return function(*args, **more)
            finally:
                now = perf_counter()
                seconds[station] += now - self._since
                self.station = around
                self.depth -= 1
                if not self.depth:
                    self.returns()
                self._since = perf_counter()

        return timed


@dataclass(frozen=True)
class WrapperCost:
    """What a call of a wrapped function charges too much, in seconds: to its own station, and to the one around it."""

    inside: float
    outside: float

    @classmethod
    def measured(cls) -> WrapperCost:
        """By calling a function that does nothing, plain and wrapped."""

        def nothing(_: object) -> None:
            return None

        watch = Stopwatch()
        plain = _loop(nothing)
        watch.to("outside")
        began = perf_counter()
        _loop(watch.wrapped("inside", nothing))
        watch.stop()
        assert perf_counter() - began > plain
        empty = _loop(None)
        call = max(0.0, plain - empty) / _CALLS
        return cls(
            max(0.0, watch.seconds["inside"] / _CALLS - call), max(0.0, (watch.seconds["outside"] - empty) / _CALLS)
        )

    def net_s(self, watch: Stopwatch, station: str) -> float:
        """The seconds of a station without those of the wrappers."""
        over = watch.entered[station] * self.inside + watch.called[station] * self.outside
        return max(0.0, watch.seconds[station] - over)


def _loop(function: Callable[[object], None] | None) -> float:
    """Seconds of so many calls, or of as many turns of the loop alone."""
    began = perf_counter()
    if function is None:
        for _ in range(_CALLS):
            pass
    else:
        for _ in range(_CALLS):
            function(None)
    return perf_counter() - began


@contextlib.contextmanager
def replaced(stations: Mapping[str, str], wrap: Callable[[str, Callable[..., Any]], Any]) -> Iterator[None]:
    """Within, each function `module:name` or `module:Class.name` is what `wrap` makes of its station and itself.

    Raises:
      BenchError: there is none of that name.
    """
    with contextlib.ExitStack() as stack:
        for name, station in stations.items():
            module, _, path = name.partition(":")
            *owners, last = path.split(".")
            try:
                owner: Any = importlib.import_module(module)
                for part in owners:
                    owner = getattr(owner, part)
                before = getattr(owner, last)
            except (ImportError, AttributeError):
                raise BenchError(f"there is no {name} any more: bench/stations/table.py has to name another") from None
            try:
                setattr(owner, last, wrap(station, before))
            except (TypeError, AttributeError):  # compiled: its time stays in the station around it
                continue
            if last in vars(owner):
                stack.callback(setattr, owner, last, before)
        yield
