"""A shadow that is asked nothing, for tests of what is around it."""

from typing import Any

from app.rpc.messages import Arm, ShadowFigures


class Unasked:
    """Keeps what it was offered."""

    def __init__(self, arm: Arm) -> None:
        self.digest, self.share = arm.bundle.digest, arm.share
        self.offered: list[Any] = []
        self.closed = False

    async def open(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def offer(self, *batch: Any) -> None:
        self.offered.append(batch)

    def take_figures(self) -> ShadowFigures:
        return ShadowFigures(compared=len(self.offered))
