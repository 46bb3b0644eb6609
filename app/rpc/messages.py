"""What the processes of one server send each other, beside arrays and bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.artifacts.bundle import Bundle, Graph

# A folder of checkpoints may hold thousands; so many versions are listed where nobody asks for more.
SHOWN = 100


@dataclass(frozen=True)
class Offer:
    """What a worker has to load for one policy before it can be admitted: a version and its name.

    `series`: the folder of exports that it comes from, where it comes from one.
    """

    name: str
    graph: Graph
    bundle: Bundle
    series: Path | None = None


@dataclass(frozen=True)
class Swapped:
    """How a reload ended: what serves now, what served before, and how long it took."""

    version: str
    train_step: int
    previous: str
    took_ms: float
