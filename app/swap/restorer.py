"""What a manager needs of a workshop. All of it blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Weights(Protocol):
    """What a workshop says of a copy that is ready."""

    @property
    def train_step(self) -> int:
        """The train step in the weights; -1 if unknown."""

    @property
    def loaded_at(self) -> float:
        """Unix time at which the values stood in the copy; what came after was verifying it."""

    @property
    def metadata(self) -> Any:
        """Arrays by name."""


class Restorer(Protocol):
    """The part of a workshop that makes versions ready."""

    digest: str

    def stale(self) -> bool:
        """Whether the export's graph was replaced since it was opened."""

    def reopened(self) -> Restorer:
        """The same for the graph that lies there now, if its specs are equal; else SwapRefused."""

    def standby(self) -> Any:
        """A copy with the export's weights that nobody uses yet."""

    def check(self, folder: Path) -> int:
        """Judges a checkpoint without restoring it; its train step, or SwapRefused where it may not serve."""

    def weights(self, engine: Any) -> Weights:
        """Verifies what the copy holds; SwapRefused where it may not serve."""

    def restore(self, engine: Any, folder: Path) -> Weights:
        """Restores a checkpoint into the copy and verifies it; SwapRefused where it may not serve."""
