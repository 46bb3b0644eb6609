"""What can be wrong with the files and the variables of a checkpoint, and what is said of it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from saver.artifact import CHECKPOINT_FILE, digest_of, write_checkpoint_manifest
from tests.integration.swaps.bad_checkpoints.scenario import (
    FILLER,
    FOOTER,
    INDEX,
    SHARD,
    SHARD_2_OF_3,
    Scenario,
    write,
)


def unlink(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "variables")


def truncate(name: str, tenths: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size * tenths // 10)


def flip(name: str, place: int, mask: int = 0xFF) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= mask
        (folder / name).write_bytes(content)

    return spoil


def promise_a_tebibyte(folder: Path) -> None:
    """The footer of an index: offset and size of two blocks. The second is what is read first."""
    body = (folder / INDEX).read_bytes()
    footer = bytes([0, 8, 0, *[0x80] * 5, 0x20])
    (folder / INDEX).write_bytes(body[:-FOOTER] + footer.ljust(FOOTER - 8, b"\0") + body[-8:])


def other_digest(folder: Path) -> None:
    """A manifest that fits together, of files that are not these."""
    manifest = folder / CHECKPOINT_FILE
    listed = json.loads(manifest.read_text())
    other = dict.fromkeys(listed["files"], "0" * 64)
    manifest.write_text(json.dumps(listed | {"files": other, "digest": digest_of(other)}))


# What can be wrong with the variables


def missing(tree: dict[str, Any]) -> None:
    tree["model_variables"].pop()


def extra(tree: dict[str, Any]) -> None:
    tree["model_variables"].append(tf.Variable(1.0))


def narrow(tree: dict[str, Any]) -> None:
    tree["model_variables"][0] = tf.Variable(tf.cast(tree["model_variables"][0], tf.float16))


def wider(tree: dict[str, Any]) -> None:
    tree["model_variables"][0] = tf.Variable(tf.zeros([FILLER + 1]))


def recurrent(tree: dict[str, Any]) -> None:
    shapes = ([4, 8], [2, 8], [8], [2, 2], [2, 1], [1])
    tree["model_variables"] = [tf.Variable(tf.zeros(shape)) for shape in shapes]


def holding(value: float) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        content = np.zeros(FILLER, np.float32)
        content[[5, 50_000, FILLER - 1]] = value
        tree["model_variables"][0].assign(content)

    return change


@dataclass(frozen=True)
class Bad:
    """A kind of bad checkpoint: what is done to its variables before and to its files after they are written.

    `says` has, by who wrote it, what the reason begins with and what it names: `ours` was spoilt after checkpoint.json
    was written, `plain` has no checkpoint.json, and `lying` has one with the digests of the spoilt files.
    """

    says: dict[str, str]
    change: Callable[[dict[str, Any]], None] | None = None
    spoil: Callable[[Path], object] = lambda _: None
    shard_bytes: int | None = None

    def write(self, scenario: Scenario, name: str, style: str) -> Path:
        if self.change is None and self.shard_bytes is None:
            folder = scenario.written(name, style)
        else:
            folder, tree = scenario.outbox / name, scenario.tree()
            (self.change or (lambda _: None))(tree)
            write(folder, tree, self.shard_bytes)
            if style == "ours":
                write_checkpoint_manifest(folder, scenario.step)
        self.spoil(folder)
        if style == "lying":
            write_checkpoint_manifest(folder, scenario.step)
        return folder


def unreadable(what: str) -> dict[str, str]:
    """Other bytes: the digests show it where there are true ones, TensorFlow's own checksums otherwise."""
    return {
        "ours": r"refused: variables/variables\S+ has sha256 \w+…, its manifest says \w+…",
        "plain": f"refused: {what}",
        "lying": f"refused: {what}",
    }


def wrong(what: str) -> dict[str, str]:
    """Other variables: digests, true ones, say nothing of it."""
    return {"plain": f"refused: {what}", "lying": f"refused: {what}"}


LARGE = "model_variables/0"
KINDS = {
    "empty folder": Bad(
        {"plain": f"incomplete: {INDEX} is missing", "ours": f"incomplete: {SHARD} is missing"}, spoil=empty
    ),
    "index missing": Bad(
        {
            "plain": f"incomplete: {INDEX} is missing",
            "ours": f"incomplete: {INDEX} is missing",
            "lying": "refused: its index cannot be read: ",
        },
        spoil=unlink(INDEX),
    ),
    "one shard missing": Bad(
        {
            "plain": "incomplete: 2 of 3 data files are there",
            "ours": f"incomplete: {SHARD_2_OF_3} is missing",
            "lying": f"refused: {LARGE} cannot be read: .*00001-of-00003",
        },
        spoil=unlink(SHARD_2_OF_3),
        shard_bytes=2 * FILLER,
    ),
    "data truncated": Bad(unreadable(f"{LARGE} cannot be read: "), spoil=truncate(SHARD, 5)),
    "index truncated": Bad(unreadable("its index cannot be read: "), spoil=truncate(INDEX, 5)),
    "data flipped": Bad(unreadable(f"{LARGE} cannot be read: .*[Cc]hecksum"), spoil=flip(SHARD, 1000)),
    "index flipped": Bad(unreadable("its index cannot be read: "), spoil=flip(INDEX, 50)),
    "index promises a tebibyte": Bad(unreadable("its index cannot be read: "), spoil=promise_a_tebibyte),
    "digest does not match": Bad({"ours": r"refused: variables/variables\S+ has sha256 \w+…, .* says 000000"}),
    "other architecture": Bad(wrong(r"variable \S+/3 is unknown to the policy \(3 such\)"), change=recurrent),
    "other size": Bad(wrong(rf"variable {LARGE} is float32 \[100001\], .* float32 \[100000\]"), change=wider),
    "variable missing": Bad(wrong(r"variable model_variables/2 is missing \(1 of 4 are\)"), change=missing),
    "variable too many": Bad(wrong(r"variable \S+/3 is unknown to the policy \(1 such\)"), change=extra),
    "other dtype": Bad(wrong(rf"variable {LARGE} is float16 \[100000\], .* float32"), change=narrow),
    "NaN": Bad(wrong(f"variable {LARGE} holds 3 values of 100000 that are NaN"), change=holding(np.nan)),
    "infinity": Bad(wrong(f"variable {LARGE} holds 3 values of 100000 .* infinite"), change=holding(-np.inf)),
}
CASES = [(kind, style) for kind, bad in KINDS.items() for style in bad.says]
