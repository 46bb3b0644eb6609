"""A thread for bodies and answers that take longer than the event loop may be kept, and memory given back after them.

Python runs one thread at a time, and changes between them every 5 ms, but not within a call into C. What is run here
makes many short calls, so that the event loop never waits for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from app.errors import Overloaded, PolicyServerError

T = TypeVar("T")

# Two of the largest bodies: what waits here is held in memory.
_MOST_BYTES = 128 * 2**20
_PAGE_BYTES = 4096
# So much more than after the last time is worth giving back.
_GROWN_BYTES = 16 * 2**20
# glibc's numbers for what mallopt sets.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Larger blocks go back to the operating system when they are freed. The size of a request with a few images is below
# it, and of the space at the end of the heap it takes: to get that anew for each request costs more than to read it.
_MMAP_BYTES, _TRIM_BYTES = 4 * 2**20, 16 * 2**20


class Offload:
    """Runs one call after the other. `most_bytes`: what all of them may hold together."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._lane = ThreadPoolExecutor(1, "bodies")
        self._memory = _Memory()

    async def run(self, size: int, call: Callable[..., T], *args: Any) -> T:
        """What the call returns or raises; `size`: the bytes that it holds.

        Raises:
          Overloaded: too much waits already.
        """
        if self._held_bytes and self._held_bytes + size > self._most_bytes:
            raise Overloaded(f"{self._held_bytes} bytes of large requests wait to be read; try again")
        loop = asyncio.get_running_loop()
        self._held_bytes += size
        work: Future[T] = self._lane.submit(call, *args)

        def release(_: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._release, size)

        work.add_done_callback(release)
        try:
            return await asyncio.wrap_future(work)
        except PolicyServerError as error:
            # Its frames hold the body.
            raise error.with_traceback(None) from None
        finally:
            del work, args  # an error that is raised would hold itself by this frame, and the body with it

    async def give_back(self) -> None:
        """Gives memory that is free back to the operating system, where there is much of it."""
        if self._memory.has_grown():
            await asyncio.wrap_future(self._lane.submit(self._memory.give_back))

    def close(self) -> None:
        """Nothing is run any more."""
        self._lane.shutdown(wait=False, cancel_futures=True)

    def _release(self, size: int) -> None:
        self._held_bytes -= size


class _Memory:
    """The heap of this process, where the C library is glibc."""

    def __init__(self) -> None:
        self._after = 0
        try:
            self._libc: Any = ctypes.CDLL(None)
            self._libc.malloc_trim.argtypes = [ctypes.c_size_t]
            self._libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
            self._libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        except (AttributeError, OSError):
            self._libc = None

    def has_grown(self) -> bool:
        """Whether this process is larger than after the last time."""
        resident = _resident_bytes()
        self._after = self._after or resident
        return self._libc is not None and resident > self._after + _GROWN_BYTES

    def give_back(self) -> None:
        self._libc.malloc_trim(0)
        self._after = _resident_bytes()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
