"""When a request is sent again. Decides only: nothing here sends or sleeps.

Every request of this client may be sent again: those without a session change nothing, a session's have their run and
their step, and an ending that finds nothing has been done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from policy_client.errors import PolicyError, Unavailable, error_of

# Too busy, no server behind the proxy, not ready.
_COME_AGAIN = (429, 502, 503)
_NO_ANSWER = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)


@dataclass(frozen=True)
class Retries:
    """How long a request that gets no answer is sent again.

    limit: how often, at most; 0 for never.
    first_wait_s: the wait before the first repetition, in seconds; it doubles each time. Up to half of it is left out,
      by chance, so that many simulators do not come back at once.
    longest_wait_s: the longest wait, also where the server's Retry-After asks for more.
    total_s: no repetition begins later than this after the call; so a call ends within `total_s` and one time-out.
    """

    limit: int = 10
    first_wait_s: float = 0.05
    longest_wait_s: float = 5.0
    total_s: float = 30.0

    def wait_s(self, repetition: int, spent_s: float, asked_s: float = 0.0, chance: float = 1.0) -> float | None:
        """The wait before a repetition, or None to give up.

        Args:
          repetition: its number, from 1.
          spent_s: how long the call has taken so far.
          asked_s: the server's Retry-After.
          chance: a random number, 0 to 1.
        """
        if repetition > self.limit:
            return None
        doubled = self.first_wait_s * 2.0 ** min(repetition - 1, 32)
        wait = min(self.longest_wait_s, max(asked_s, doubled * (1 + chance) / 2))
        return wait if spent_s + wait <= self.total_s else None


DEFAULT_RETRIES = Retries()


class Attempts:
    """One call, from its first attempt to its last: from how each failed, how long to wait for the next."""

    def __init__(self, request: httpx.Request, retries: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self._request = request
        self._retries = retries
        self._clock = clock
        self._began = clock()
        self._made = 0

    def lost(self, error: httpx.RequestError) -> float:
        """There was no answer; returns seconds.

        Raises:
          Unavailable: no attempt is left.
          PolicyError: another one would fare no better.
        """
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        if not isinstance(error, _NO_ANSWER):
            raise PolicyError(f"{self._asked}: {said}") from error
        wait = self._next(0.0)
        if wait is None:
            raise Unavailable(f"{self._asked}: no answer{self._effort()}: {said}") from error
        return wait

    def refused(self, response: httpx.Response) -> float:
        """The answer was a refusal, or none that we know; returns seconds.

        Raises:
          Unavailable: no attempt is left.
          PolicyError: of its status, where the server's answer would be the same again.
        """
        error = error_of(self._asked, response.status_code, response.content)
        if response.status_code not in _COME_AGAIN:
            raise error
        wait = self._next(_asked_s(response.headers.get("retry-after", "")))
        if wait is None:
            error.args = (f"{error}{self._effort()}",)
            raise error
        return wait

    @property
    def _asked(self) -> str:
        return f"{self._request.method} {self._request.url}"

    def _next(self, asked_s: float) -> float | None:
        self._made += 1
        return self._retries.wait_s(self._made, self._clock() - self._began, asked_s, random.random())

    def _effort(self) -> str:
        attempts = "attempt" if self._made == 1 else "attempts"
        return f" after {self._made} {attempts} in {self._clock() - self._began:.1f} s"


def _asked_s(retry_after: str) -> float:
    """Seconds from now; 0 where nothing is asked, or nothing that can be read."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):  # Python 3.9 has the second
        return 0.0
