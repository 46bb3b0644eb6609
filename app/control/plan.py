"""The decision what to do next in a swap: pure functions of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from saver.artifact import natural_order

Refused = set[tuple[str, object]]


@dataclass(frozen=True)
class Candidate:
    """A complete checkpoint in the folder. `stamp` changes with its files; `written_at`: Unix time of the newest."""

    name: str
    folder: Path
    digest: str
    train_step: int
    stamp: object = None
    written_at: float = 0.0

    @cached_property
    def order(self) -> tuple[Any, ...]:
        """Its place among others, see `order`."""
        return order(self.train_step, self.name)


@dataclass(frozen=True)
class OwnWeights:
    """The weights of the export itself. `written_at`: Unix time of its files, where it was seen being saved again."""

    digest: str
    train_step: int
    written_at: float | None = None

    def newer_than(self, train_step: int, written_at: float) -> bool:
        """Returns whether they are newer than a checkpoint's: by train step, or else by when they were written.

        An export that was there from the start is older than any checkpoint of its train step: its files may have the
        time of a copy.
        """
        if train_step != self.train_step and min(train_step, self.train_step) >= 0:
            return self.train_step > train_step
        return self.written_at is not None and self.written_at > written_at


def order(train_step: int, name: str) -> tuple[Any, ...]:
    """Sorts versions: by train step, ties by natural name order (`step-9` before `step-10`)."""
    return (train_step, *natural_order(name))


def newest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sorts checkpoints in the order in which they are tried: highest train step first."""
    return sorted(candidates, key=lambda c: c.order, reverse=True)


def ranked(candidates: Iterable[Candidate], own: OwnWeights | None) -> list[Candidate | OwnWeights]:
    """Sorts as `newest_first`, with the export's own weights in their place; left out if every checkpoint is newer."""
    newest: list[Candidate | OwnWeights] = [*newest_first(candidates)]
    for index, candidate in enumerate(newest):
        if own is not None and own.newer_than(candidate.train_step, getattr(candidate, "written_at", 0.0)):
            return [*newest[:index], own, *newest[index:]]
    return newest


def worth_trying(
    candidates: Iterable[Candidate],
    active_name: str,
    active_digest: str,
    active_step: int,
    refused: Refused,
) -> list[Candidate]:
    """Returns what watching should swap to, best first; empty where the active version is the best there is.

    A newer checkpoint, or other bytes under the active one's name. What was refused (digest and stamp) is not tried
    again until its files change or someone asks. The export's own weights are older than any checkpoint.
    """
    active = order(active_step, active_name)
    worth_it = [
        c
        for c in candidates
        if (active_name == "export" or c.name == active_name or c.order > active)
        and c.digest != active_digest
        and (c.digest, c.stamp) not in refused
    ]
    return newest_first(worth_it)


def newer(
    there: Sequence[Candidate], active: Candidate, served: OwnWeights, fresh: OwnWeights | None, refused: Refused
) -> list[Candidate | OwnWeights]:
    """Chooses as `worth_trying`, with the export's own weights among them.

    Args:
      there: the complete checkpoints.
      active: the name, digest and train step of the active version.
      served: the weights of the export whose graph serves.
      fresh: those of what was saved over it since, if anything was.
      refused: digest and stamp of what may not serve.
    """
    found = worth_trying(there, active.name, active.digest, active.train_step, refused)
    own = fresh or served
    if active.name == "export":
        found = [c for c in found if not served.newer_than(c.train_step, c.written_at)]
        worth_it = True  # other bytes under the same name
    else:
        written_at = max((c.written_at for c in there if c.digest == active.digest), default=0.0)
        worth_it = own.newer_than(active.train_step, written_at)
    if not worth_it or own.digest == active.digest or (own.digest, None) in refused:
        return [*found]
    order = ranked(found, own)
    return order if own in order else [*order, own]
