"""Freed memory goes back to the operating system, in a thread, and only where there is much of it."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.memory import FreedMemory, resident_bytes


class Libc:
    """Counts in place of the C library."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def malloc_trim(self, _: int) -> int:
        self.threads.append(threading.current_thread().name)
        return 1


def threads_after(prepare: Callable[[FreedMemory], Any]) -> list[str]:
    """In which threads memory was given back after `prepare` and two looks."""

    async def test() -> list[str]:
        memory, libc = FreedMemory(), Libc()
        await memory.give_back()  # notes how large the process is
        memory._libc = libc
        prepare(memory)
        for _ in range(2):
            await memory.give_back()
        memory.close()
        return libc.threads

    return asyncio.run(test())


def test_a_process_has_memory_and_one_that_is_gone_has_none() -> None:
    assert 2**20 < resident_bytes(os.getpid()) < 2 * resident_bytes()
    assert resident_bytes(2**22 + 1) == 0


def test_what_connections_free_is_given_back_once_and_outside_the_event_loop() -> None:
    assert threads_after(lambda memory: memory.freed(2**20)) == ["memory_0"]
    assert threads_after(lambda memory: [memory.freed(2**19), memory.freed(2**19)]) == ["memory_0"]


def test_a_process_that_has_grown_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 117, 101, 116])
    monkeypatch.setattr("app.memory.resident_bytes", lambda: next(sizes) * 2**20)
    assert threads_after(lambda _: None) == ["memory_0"]


def test_a_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.memory.resident_bytes", lambda: 100 * 2**20)
    assert threads_after(lambda memory: memory.freed(2**20 - 1)) == []


def test_another_c_library_is_left_alone() -> None:
    def without(memory: FreedMemory) -> None:
        memory._libc = None
        memory.freed(2**30)

    assert threads_after(without) == []
