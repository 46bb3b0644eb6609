"""A tar that a client sends → a checkpoint where the source looks for them: unpacked, verified, then published.

Each upload has a thread of its own, so that neither a slow disk nor another upload delays it; TensorFlow's part is
done in the control thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.artifacts.names import EXPORT
from app.errors import DoesNotFit, Problem, SwapRefused, Unsupported
from app.settings import PolicyFolder
from app.uploads.untar import Unpacker
from saver.artifact import (
    CHECKPOINT_FILE,
    CHECKPOINTS_FOLDER,
    CheckpointManifest,
    is_name,
    read_checkpoint_manifest,
    write_checkpoint_manifest,
)
from saver.artifact.publishing import discard, publish, staged_folder

_LONGEST_NAME = 200
# Verifies the checkpoint in a folder and returns its train step; SwapRefused where it may not serve.
Check = Callable[[Path], Awaitable[int]]


@dataclass(frozen=True)
class Stored:
    """A checkpoint that was stored: its name, and what identifies it."""

    version: str
    train_step: int
    digest: str


class Uploads:
    """Takes checkpoints for one policy.

    `folders` are where they may be stored: the first that can be written is taken. Of one name in several of them
    the source has to prefer the last one's. `limit` is for the bytes of one upload.
    """

    def __init__(self, folders: Sequence[Path], limit: int, check: Check) -> None:
        self.limit = limit
        self._folders = folders
        self._check = check

    async def store(self, name: str, body: AsyncIterator[bytes]) -> Stored:
        """Stores the tar `body` as checkpoint `name`; an earlier one of that name is replaced.

        Raises:
          DoesNotFit: it cannot have that name, or is no tar of a checkpoint.
          BodyTooLarge: its files are larger than the limit.
          SwapRefused: it could not serve, or there is no room for it. Nothing has changed.
          Unsupported: no folder can be written.
        """
        _check_name(name)
        executor = ThreadPoolExecutor(1, "upload")
        in_thread = functools.partial(asyncio.get_running_loop().run_in_executor, executor)
        undo = contextlib.ExitStack()
        try:
            staged, destination = await in_thread(self._open, name, undo)
            unpacker = await in_thread(Unpacker, staged, self.limit)
            undo.callback(unpacker.close)
            async for part in body:
                await in_thread(unpacker.feed, part)
            await in_thread(unpacker.finish)
            train_step = await self._check(staged)
            manifest = await in_thread(_completed, staged, unpacker.files, train_step)
            await in_thread(self._publish, staged, destination)
        except OSError as error:
            raise SwapRefused(f"checkpoint {name} cannot be stored: {error.strerror or error}") from error
        finally:
            # Behind what still runs in the thread, also where this task was cancelled.
            gone = in_thread(undo.close)
            executor.shutdown(wait=False)
            await gone
        return Stored(name, manifest.train_step, manifest.digest)

    def _open(self, name: str, undo: contextlib.ExitStack) -> tuple[Path, Path]:
        """Makes a folder to write to, which `undo` removes, and returns where it will be published too."""
        reasons = []
        for folder in self._folders:
            try:
                return undo.enter_context(staged_folder(folder / name)), folder / name
            except OSError as error:
                reasons.append(f"{folder}: {error.strerror}")
        raise Unsupported(f"no folder for checkpoints can be written ({'; '.join(reasons)})")

    def _publish(self, staged: Path, destination: Path) -> None:
        publish(staged, destination)
        for folder in self._folders[self._folders.index(destination.parent) + 1 :]:
            with contextlib.suppress(OSError):  # there is none, as a rule
                discard(folder / destination.name)


def upload_folders(policy: PolicyFolder, state_dir: str) -> list[Path]:
    """Makes the folder of uploads where the policy's own cannot be written; now, so that it can be watched."""
    if not state_dir:
        return []
    folder = Path(state_dir).absolute() / policy.name / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return [folder]


def upload_places(policy: PolicyFolder, state_dir: str) -> list[Path]:
    """Returns where uploaded checkpoints may lie, the one that is taken first."""
    return [policy.series or policy.folder / CHECKPOINTS_FOLDER, *upload_folders(policy, state_dir)]


def _check_name(name: str) -> None:
    if name == EXPORT:
        raise DoesNotFit([Problem("name", repr(name), "another name: the export's own weights have this one")])
    if not is_name(name) or len(name) > _LONGEST_NAME:
        shown = repr(name[:_LONGEST_NAME])
        raise DoesNotFit([Problem("name", shown, f"up to {_LONGEST_NAME} of A-Z a-z 0-9 . _ -, first no . _ -")])


def _completed(staged: Path, files: set[str], train_step: int) -> CheckpointManifest:
    """Returns the manifest that came with the checkpoint, else one that is written now."""
    manifest = read_checkpoint_manifest(staged)
    if manifest is None:
        return write_checkpoint_manifest(staged, train_step)
    # Or two sets of weights could have one digest.
    unlisted = files - {CHECKPOINT_FILE} - set(manifest.files)
    if unlisted:
        raise SwapRefused(f"{CHECKPOINT_FILE} does not list {sorted(unlisted)[0]}")
    return manifest
