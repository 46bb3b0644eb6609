"""Checkpoints that need no TensorFlow: a folder with one small file, and what says what it is."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from app.errors import Incomplete, SwapRefused


@dataclass(frozen=True)
class Identity:
    digest: str
    train_step: int


def put(parent: Path, name: str, train_step: int, **more: str) -> Path:
    """Writes a checkpoint. `refuse` is what a restore will say; `unreadable`, `incomplete` what a look will say."""
    variables = parent / name / "variables"
    variables.mkdir(parents=True, exist_ok=True)
    staged = parent / name / ".weights"
    staged.write_text(json.dumps({"train_step": train_step, **more}))
    staged.replace(variables / "weights")  # the control thread may be reading
    return parent / name


def contents(folder: Path) -> dict:
    return json.loads((folder / "variables" / "weights").read_text())


def identify(folder: Path, rest_s: float) -> Identity:
    try:
        data = contents(folder)
    except FileNotFoundError:
        raise Incomplete("weights are missing", settled=False) from None
    if "incomplete" in data:
        raise Incomplete(data["incomplete"], settled="settled" in data)
    if "unreadable" in data:
        raise SwapRefused(data["unreadable"])
    return Identity(digest(folder), data["train_step"])


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "variables" / "weights").read_bytes()).hexdigest()
