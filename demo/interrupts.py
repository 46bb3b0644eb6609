"""Ctrl-C and SIGTERM → one KeyboardInterrupt, at a moment when it can do its work."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator

_ENDING_S = 30.0  # as long as simulators and server together are given to stop


class Interrupts:
    """Made in the main thread. The first signal unwinds the demo, so that its children are ended."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._deferred = False
        self._unwound_at = -math.inf
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    @property
    def first(self) -> int | None:
        """The number of the first signal; None while there was none."""
        return self._came[0] if self._came else None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Makes a signal within the block wait for its end.

        TensorFlow needs it: while it is imported or compiles, it may swallow the exception.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._came:
            self._unwind()

    def _stop(self, number: int, _frame: object) -> None:
        self._came.append(number)
        if not self._deferred:
            self._unwind()

    def _unwind(self) -> None:
        """Raises, unless the children are being ended already, which a second one would break off."""
        now = time.monotonic()
        if now - self._unwound_at > _ENDING_S:
            self._unwound_at = now
            raise KeyboardInterrupt
