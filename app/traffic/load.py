"""How busy a worker is: whether its process could do more for those who wait for an answer."""

from __future__ import annotations

import contextlib
import os
import time

# Numbers of `/proc/…/schedstat`: nanoseconds on a core, and of waiting for one.
_WAITED = 1
_NS = 1e-9
# So long that the clocks' steps and one long batch do not matter.
LOOK_EVERY_S = 0.1


class Load:
    """The share of the time for which this process works, or its event loop waits for a core. Event loop only.

    Where the kernel does not say how long a thread has waited for a core, that counts as nothing.
    """

    def __init__(self) -> None:
        self._waits = -1
        with contextlib.suppress(OSError):
            self._waits = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._apart: int | None = None
        self._next = 0.0
        self._at, self._worked = time.perf_counter(), self._seconds()
        self.share = 0.0

    def leave_out(self, thread: int) -> None:
        """Counts a thread of this process (`threading.get_ident`) no more, as long as it lives."""
        self._apart = time.pthread_getcpuclockid(thread)
        self._worked = self._seconds()

    def close(self) -> None:
        """Looks no more."""
        if self._waits >= 0:
            os.close(self._waits)
        self._waits, self._apart = -1, None

    def at(self, now: float) -> float:
        """Returns the share, of the last tenth of a second or longer. `now`: on the event loop's clock."""
        if now >= self._next:
            self._next = now + LOOK_EVERY_S
            at, worked = time.perf_counter(), self._seconds()
            self.share = (worked - self._worked) / max(at - self._at, 1e-6)
            self._at, self._worked = at, worked
        return self.share

    def _seconds(self) -> float:
        waited = 0.0
        if self._waits >= 0:
            waited = int(os.pread(self._waits, 100, 0).split()[_WAITED]) * _NS
        return time.process_time() + waited - (time.clock_gettime(self._apart) if self._apart is not None else 0.0)
