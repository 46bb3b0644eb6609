"""The identity of a checkpoint: the digest of its files, and its train step, which is read only once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from app.artifacts.checkpoint_identity import Identity, identify
from app.control.state_dir import StateDir
from app.rpc.builder import BuilderCalls


def identifier(
    calls: BuilderCalls, state_dir: StateDir, loop: asyncio.AbstractEventLoop
) -> Callable[[Path, float], Identity]:
    """Returns what identifies a checkpoint, in the control thread.

    The builder reads a train step that nothing else says.
    """

    def train_step_in(folder: Path, digest: str) -> int:
        known = state_dir.train_step(digest)
        if known is not None:
            return known
        train_step: int = asyncio.run_coroutine_threadsafe(calls.call("train_step_in", folder), loop).result()
        return train_step

    return lambda folder, rest_s: identify(folder, rest_s, train_step_in)
