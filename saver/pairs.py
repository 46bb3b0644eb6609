"""Two sequences of one length, side by side: `zip(…, strict=True)`, which Python 3.9 lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def paired(first: Iterable[A], second: Iterable[B]) -> list[tuple[A, B]]:
    """Pairs the elements of two iterables.

    Raises:
      ValueError: one is longer than the other.
    """
    ones, others = list(first), list(second)
    if len(ones) != len(others):
        raise ValueError(f"{len(ones)} beside {len(others)}: expected as many")
    return list(zip(ones, others))
