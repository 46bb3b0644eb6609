"""Versions that are tried beside the active one, and what has become of them: plain values that outlive a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from app.artifacts.bundle import Bundle, Graph
from app.artifacts.records import VersionRecord
from app.control.states import Version
from app.errors import readable
from app.rpc.messages import Arm, ArmFigures, ArmWish, ShadowFigures
from app.traffic.decision import Rule


class Ended(StrEnum):
    """How the trial of a canary ended: its version may not serve, it serves, or something else came in between."""

    STOP = "stop"
    PROMOTE = "promote"
    END = "end"


@dataclass(frozen=True)
class Trial:
    """A version that is tried. `stamp`: of the files that it comes from; `began_at`: Unix time."""

    wish: ArmWish
    version: Version
    graph: Graph
    bundle: Bundle
    stamp: object
    began_at: float

    @property
    def arm(self) -> Arm:
        """What the workers try."""
        return Arm(self.version.name, self.graph, self.bundle, self.wish.share)

    @property
    def key(self) -> str:
        """What no other trial has, on any server."""
        return f"{self.version.digest} {self.began_at}"

    @property
    def rule(self) -> Rule:
        """What decides on it."""
        return Rule(self.wish.stop_if_return_drops, self.wish.promote_after_episodes)

    @property
    def record(self) -> VersionRecord:
        """The version as it is saved."""
        return VersionRecord(self.version.name, self.version.digest, self.version.train_step, self.graph.digest)


@dataclass(frozen=True)
class Decided:
    """What became of the last canary: how its trial ended, why, when (Unix time), and what both arms had come to."""

    action: Ended
    version: str
    reason: str
    at: float
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """A version that was tried and stopped."""

    digest: str
    reason: str


@dataclass(frozen=True)
class SavedTrial:
    """A trial as it is saved."""

    wish: ArmWish
    record: VersionRecord
    began_at: float

    @classmethod
    def of(cls, trial: Trial | None) -> SavedTrial | None:
        """Returns what is saved of a trial."""
        return None if trial is None else cls(trial.wish, trial.record, trial.began_at)


@dataclass(frozen=True)
class SavedTraffic:
    """All that outlives a restart."""

    canary: SavedTrial | None = None
    shadow: SavedTrial | None = None
    figures: Mapping[str, ArmFigures] = field(default_factory=dict)
    shadow_figures: ShadowFigures = field(default_factory=ShadowFigures)
    decided: Decided | None = None
    stopped: tuple[Stopped, ...] = ()

    @property
    def agreed(self) -> str:
        """What the servers of a fleet agree on, as JSON: all but the figures; empty where nothing was ever tried."""
        agreed = replace(self, figures={}, shadow_figures=ShadowFigures())
        return "" if agreed == SavedTraffic() else msgspec.json.encode(agreed.to_json()).decode()

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON, for `from_json`."""
        saved: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return saved

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> SavedTraffic:
        """Reads it; raises msgspec.ValidationError where it is something else."""
        return msgspec.convert(saved, cls, strict=False)


def readable_reason(reason: str) -> str:
    """Returns a reason as it is kept: a policy's own text may be long."""
    return readable(reason)[:500]
