"""Versions as they are recorded: in a server's own folder, and in what the members of a fleet agree on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VersionRecord:
    """A version as it is saved. `graph`: the digest of the export whose graph it served with."""

    name: str
    digest: str
    train_step: int
    graph: str = ""


@dataclass(frozen=True)
class Pin:
    """An operator's wish to stay at a version. `survives_deletion`: also when its checkpoint has been deleted."""

    name: str
    survives_deletion: bool = False
