"""Memory that is free goes back to the operating system: by itself the C library keeps it below a block in use."""

from __future__ import annotations

import asyncio
import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# How often it is checked whether there is memory to return.
_LOOK_S = 2.0
# So much that connections have freed, or so much more in this process than after the last time, is worth the while.
_FREED_BYTES, _GROWN_BYTES = 2**20, 16 * 2**20
_PAGE_BYTES = 4096
# glibc's numbers for what mallopt sets.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Larger blocks go back to the operating system when they are freed. The size of a request with a few images is below
# it, and of the space at the end of the heap it takes: to get that again for each request costs more than to read it.
_MMAP_BYTES, _TRIM_BYTES = 4 * 2**20, 16 * 2**20
# A trainer that publishes again within so many seconds finds the memory of the version before; a larger block is not
# kept, nor more than that of free space together.
_KEPT_S, _KEPT_BYTES = 15.0, 256 * 2**20


class FreedMemory:
    """Returns freed memory of this process to the system where the C library is glibc; does nothing elsewhere."""

    def __init__(self) -> None:
        self._freed_bytes = self._after = 0
        self._executor = ThreadPoolExecutor(1, "memory")
        self._libc = _glibc()
        if self._libc is not None:
            self._libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
            self._libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)

    def freed(self, size: int) -> None:
        """Counts bytes that were freed, or are about to be."""
        self._freed_bytes += size

    async def give_back_now_and_then(self) -> None:
        """Returns memory every now and then, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.give_back()

    async def give_back(self) -> None:
        """Gives back what is free, where there is much of it; in a thread, since that can take many milliseconds."""
        if self._libc is None or not self._is_worth_it():
            return
        self._freed_bytes = 0
        await asyncio.wrap_future(self._executor.submit(self._libc.malloc_trim, 0))
        self._after = resident_bytes()

    def close(self) -> None:
        """Stops: nothing is returned any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _is_worth_it(self) -> bool:
        resident = resident_bytes()
        self._after = self._after or resident
        return self._freed_bytes >= _FREED_BYTES or resident > self._after + _GROWN_BYTES


class KeptMemory:
    """Keeps what this process frees, where the C library is glibc, until nothing has been `used` for a while.

    The weights of the next version take the place of those before: to get the same memory from the system again and
    again takes a virtual machine as long as to read them. To be made before other threads are.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._libc = _glibc()
        if self._libc is not None:
            self._libc.mallopt(_M_ARENA_MAX, 1)  # others than the first could keep no block of more than 64 MB
            # Some take no more than 32 MB.
            if any(self._libc.mallopt(_M_MMAP_THRESHOLD, most) for most in (_KEPT_BYTES, 2**25)):
                self._libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)

    def used(self) -> None:
        """Notes that memory is used; on the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        if self._libc is not None:
            self._timer = asyncio.get_running_loop().call_later(_KEPT_S, self._libc.malloc_trim, 0)


def _glibc() -> Any:
    """The C library, where it is glibc; None elsewhere."""
    try:
        libc = ctypes.CDLL(None)
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
        return libc if hasattr(libc, "mallopt") else None
    except (AttributeError, OSError):
        return None


def resident_bytes(process: int | str = "self") -> int:
    """Returns the memory that a process takes; 0 where it has ended, or the system does not report it."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
