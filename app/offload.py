"""A thread for bodies and answers that take longer than the event loop may be kept.

Python runs one thread at a time, and changes between them every 5 ms, but not within a call into C. What is run here
makes many short calls, and lets others run between them, so that the event loop never waits for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from app.errors import Overloaded, PolicyServerError

T = TypeVar("T")

# Two of the largest bodies: what waits here is in memory.
_MOST_BYTES = 128 * 2**20
# A thread that has run for so long lets others run, for as long as one needs to notice.
_TURN_S = 0.001
_REST_S = 50e-6
_turns = threading.local()


async def in_executor(executor: Executor, call: Callable[..., T], *args: Any) -> T:
    """Returns what a call returns, or raises what it raises: it blocks a thread of the executor, not the event loop."""
    return await asyncio.get_running_loop().run_in_executor(executor, call, *args)


def let_others_run() -> None:
    """Releases Python's lock for a moment, in any thread but the main one, which has the event loop; once a ms.

    A thread that waits for the lock asks for it only when it was not released for 5 ms (`sys.setswitchinterval`).
    NumPy releases it and takes it back within microseconds, so many short calls can keep it for a second.
    """
    if threading.current_thread() is threading.main_thread():
        return
    now = time.perf_counter()
    if now - getattr(_turns, "started", 0.0) >= _TURN_S:
        time.sleep(_REST_S)
        _turns.started = time.perf_counter()


class Offload:
    """Runs one call after the other. `most_bytes`: what all of them may keep in memory together."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._waiting_bytes = 0
        self._executor = ThreadPoolExecutor(1, "bodies")

    async def run(self, size: int, call: Callable[..., T], *args: Any) -> T:
        """Runs the call, and returns or raises what it does; `size`: the bytes that it keeps in memory.

        Raises:
          Overloaded: too much waits already.
        """
        if self._waiting_bytes and self._waiting_bytes + size > self._most_bytes:
            raise Overloaded(f"{self._waiting_bytes} bytes of large requests wait to be read; try again")
        loop = asyncio.get_running_loop()
        self._waiting_bytes += size
        work: Future[T] = self._executor.submit(call, *args)

        def release(_: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._release, size)

        work.add_done_callback(release)
        try:
            return await asyncio.wrap_future(work)
        except PolicyServerError as error:
            # Its frames refer to the body.
            raise error.with_traceback(None) from None
        finally:
            del work, args  # an error that is raised would refer to itself by this frame, and to the body

    def close(self) -> None:
        """Stops the thread: nothing runs any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _release(self, size: int) -> None:
        self._waiting_bytes -= size
