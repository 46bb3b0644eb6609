"""Names what lies where exports and checkpoints are looked for and is neither, and says what would do."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from saver.artifact import CHECKPOINTS_FOLDER, GRAPH_FILE

SPECS_FILE = "policy_specs.pbtxt"
CHECKPOINT_LAYOUT = "variables/variables.index and its data files"
NOT_A_FOLDER = f"it is a file, expected a folder with {CHECKPOINT_LAYOUT}"
_WRITE_ONE = "PolicySaver.save_checkpoint writes checkpoints"
# `ckpt-200.index`, `model.ckpt-200.data-00000-of-00001`, `model.ckpt-200.meta`.
_CHECKPOINT_FILE = re.compile(r"(?P<prefix>.+?)\.(?:index|meta|data-\d{5}-of-\d{5})(?:\.tempstate\d+)?")
_MOST_SHOWN = 8
_SUFFIXES = {
    (".h5", ".hdf5", ".keras"): f"it is a file of Keras, which has no policy's variables by name; {_WRITE_ONE}",
    (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip"): (
        "it is an archive: unpack it to a folder of that name, or send it as a tar with "
        "PUT /admin/policies/{policy}/checkpoints/{name}"
    ),
    (".pb", ".tflite", ".onnx", ".pt", ".pth", ".safetensors", ".npz", ".npy", ".pkl", ".pickle"): (
        f"it is a file of another kind of model; {_WRITE_ONE}"
    ),
}


def foreign_files(names: Collection[str]) -> dict[str, str]:
    """Says by their names alone what files beside checkpoints are: name of the whole → why it is no checkpoint.

    Files that belong together (`ckpt-200.index`, `ckpt-200.data-…`) have one entry. What nobody takes for weights has
    none: notes, logs, what starts with a dot.
    """
    found = {}
    for name in sorted(names):
        match = _CHECKPOINT_FILE.fullmatch(name)
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith("."):
            continue
        if match is not None:
            found[match["prefix"]] = _of_checkpointer(match["prefix"])
        elif name == "checkpoint":
            continue  # the list that such files come with
        elif not suffix or suffix[1:].isdigit():
            found[name] = NOT_A_FOLDER
        else:
            reasons = [reason for suffixes, reason in _SUFFIXES.items() if suffix in suffixes]
            found |= dict.fromkeys([name], reasons[0]) if reasons else {}
    return found


def foreign_folder(folder: Path) -> str | None:
    """Returns why a folder is neither a checkpoint nor an export; None where its content does not show what it is.

    Raises:
      OSError: it cannot be read.
    """
    names = set(os.listdir(folder))
    if "variables" in names or GRAPH_FILE in names:
        return None
    prefixes = sorted({match["prefix"] for name in names if (match := _CHECKPOINT_FILE.fullmatch(name))})
    if "variables" in prefixes:
        return f"its files lie in the folder itself, expected {CHECKPOINT_LAYOUT}"
    if prefixes:
        return _of_checkpointer(prefixes[-1])
    if "saved_model.pbtxt" in names:
        return f"it is a SavedModel as text, expected {GRAPH_FILE}"
    if {"keras_metadata.pb", "config.json", "model.weights.h5"} & names:
        return f"it is a model of Keras; {_WRITE_ONE}"
    exports = exports_in(folder)
    if exports:
        several = ", ".join(path.name for path in exports[:_MOST_SHOWN]) + (", …" if len(exports) > _MOST_SHOWN else "")
        return f"this folder holds the policies {several}: serve those"
    return _of_trainer(folder, names)


def hint_for(folder: Path) -> str:
    """Returns what a refusal of a folder without a SavedModel may add: what it is instead; "" where that is unknown."""
    try:
        reason = foreign_folder(folder)
    except OSError:
        return ""
    return f"; {reason}" if reason is not None else ""


def exports_in(folder: Path) -> list[Path]:
    """Lists the folders right in a folder that hold a SavedModel."""
    try:
        return sorted(path.parent for path in folder.glob(f"[!.]*/{GRAPH_FILE}"))
    except OSError:
        return []


def _of_trainer(folder: Path, names: Collection[str]) -> str | None:
    """The root of a TF-Agents trainer: `policies/`, `train/`, `collect/`, `eval/` or `metrics/`."""
    for below in ("policies", "policy"):
        exports = exports_in(folder / below) if below in names else []
        if exports:
            wanted = [path for path in exports if path.name != CHECKPOINTS_FOLDER]
            return f"it is a trainer's folder; the policies are {', '.join(f'{below}/{p.name}' for p in wanted[:4])}"
    nested = [name for name in ("train", "checkpoints", "checkpoint") if name in names]
    for name in nested:
        below_it = folder / name
        if below_it.is_dir() and any(_CHECKPOINT_FILE.fullmatch(file) for file in os.listdir(below_it)):
            return f"it is a trainer's folder: {name}/ has its own checkpoints, of the whole agent; {_WRITE_ONE}"
    return None


def _of_checkpointer(prefix: str) -> str:
    if prefix == "variables":
        return f"these files belong in a folder of their own: CHECKPOINT/{CHECKPOINT_LAYOUT}"
    return (
        "it is a checkpoint of tf.train.Checkpoint, such as TF-Agents' common.Checkpointer writes: of a whole agent, "
        f"under other names than an export's; {_WRITE_ONE}"
    )


def no_folder(path: Path) -> str | None:
    """Returns why a path leads to no folder, a link that leads nowhere, say, or a pipe; None where it leads to one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            return "it is a link that leads nowhere"
        return f"it cannot be read: {error.strerror}"
    if stat.S_ISDIR(mode):
        return None
    kinds = {stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a folder with {CHECKPOINT_LAYOUT}"


def shown(name: str) -> str:
    """Returns a file's name as text that any log and any JSON can hold, of at most 200 characters."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:200]
