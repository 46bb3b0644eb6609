"""The state of a server for the console, read from its parts: plain structures of JSON, without null. Event loop only.

What has not changed is the same object as before, where that is cheap, so that it needs no comparison.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from app import __version__
from app.control.manager import Manager
from app.control.openings import Openings, RunningWorkers
from app.control.rates import Rates
from app.control.states import Version
from app.control.swap_log import SwapLog
from app.metrics import FINE_LATENCY_S, Metrics
from app.rpc.messages import MOST_CALLS, AdminCall, ExperienceFigures, Spread, WorkerFigures
from app.settings import Settings

if TYPE_CHECKING:
    from app.control.recording import RecorderProcess
    from app.fleet.fleet import Fleet

_SPREAD_EVERY_S = 5.0
# A page has room for so many; `GET …/versions` has them all.
_MOST_VERSIONS = 12
_DIGEST_LETTERS, _REASON_LETTERS = 12, 500
_MIB = 2**20


@dataclass(frozen=True)
class Parts:
    """The parts that are shown. `fleet`, `recorder`: return the fleet, and the recorder, where there is one."""

    settings: Settings
    openings: Openings
    running: RunningWorkers
    swaps: SwapLog
    metrics: Metrics
    fleet: Callable[[], Fleet | None]
    recorder: Callable[[], RecorderProcess | None] = lambda: None


class View:
    """The state of a server, and the figures of its workers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_at = time.time()
        self._rates = Rates(FINE_LATENCY_S)
        self._figures: list[WorkerFigures] = []
        self._calls: deque[AdminCall] = deque(maxlen=MOST_CALLS)
        self._shown_calls: list[dict[str, Any]] = []
        self._versions: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._spread_at = 0.0
        self._spread: Spread | None = None
        self._experience: dict[str, dict[str, Any]] = {}
        self._recorded: tuple[float, dict[str, int]] = 0.0, {}
        parts.metrics.console_pages(0)  # or it would be unknown until the first one

    async def begin(self) -> None:
        """Starts to count: what was answered before is of no interest any more."""
        await self._ask()
        self._rates.begin(time.monotonic())

    async def read_figures(self) -> None:
        """Asks the workers what they have answered."""
        await self._ask()
        self._rates.add(time.monotonic(), [figures.answers for figures in self._figures])

    async def _ask(self) -> None:
        now = time.monotonic()
        wants_spread = now - self._spread_at >= _SPREAD_EVERY_S
        self._figures = await self._parts.running.figures(wants_spread)
        if wants_spread:
            self._spread_at = now
            self._spread = next((figures.spread for figures in self._figures if figures.spread is not None), None)
        self._parts.metrics.console_pages(sum(figures.pages for figures in self._figures))
        calls = [call for figures in self._figures for call in figures.calls]
        if calls:
            self._calls.extend(sorted(calls, key=lambda call: call.at))
            self._shown_calls = [asdict(call) for call in reversed(self._calls)]

        if (recorder := self._parts.recorder()) is not None:
            self._record(now, await recorder.figures())

    def _record(self, now: float, found: Mapping[str, ExperienceFigures]) -> None:
        """Takes what the recorder has come to; rows a second are those since the last time."""
        before_at, before = self._recorded
        for policy, figures in found.items():
            new = max(0, figures.rows - before.get(policy, figures.rows))
            self._experience[policy] = {
                "rows_per_s": round(new / (now - before_at), 1),
                "bytes": figures.size,
                "lost_rows": figures.removed_rows + figures.lost_events,
                "behind": sorted(figures.behind),
                "returns": [
                    {"version": one.version, "episodes": one.episodes, "mean": round(one.mean, 2)}
                    for one in reversed(figures.returns)
                ],
            }
        self._recorded = now, {policy: figures.rows for policy, figures in found.items()}

    def state(self) -> dict[str, Any]:
        """Returns all that is shown."""
        state = {
            "server": self._server(),
            "policies": {named.name: self._policy(named.name) for named in self._parts.settings.policies},
            "rates": self._rates.by_policy(),
            "swaps": self._parts.swaps.swaps.copy(),
            "audit": self._shown_calls,
        }
        fleet = self._parts.fleet()
        return state if fleet is None else {**state, "fleet": fleet.seen()}

    def _server(self) -> dict[str, Any]:
        settings = self._parts.settings
        server = {
            "version": __version__,
            "started_at": self._started_at,
            "workers": self._parts.running.count,
            "workers_wanted": settings.workers,
            "restarts": self._parts.metrics.restarts,
            "memory_bytes": sum(self._parts.metrics.resident_bytes.values()) // _MIB * _MIB,
            "pages": sum(figures.pages for figures in self._figures),
            "policies": [named.name for named in settings.policies],
            "admin": bool(settings.admin_token),
        }
        sessions = [figures.sessions for figures in self._figures if figures.sessions is not None]
        if sessions:
            server["sessions"] = max(sessions)
        if self._spread is not None and self._spread.steps:
            idle_s = {name: round(seconds, 1) for name, seconds in self._spread.idle_s.items()}
            server["sessions_spread"] = {"steps": dict(self._spread.steps), "idle_s": idle_s}
        return server

    def _policy(self, name: str) -> dict[str, Any]:
        manager = self._parts.openings.managers.get(name)
        if manager is None:
            reason = self._parts.openings.failures.get(name, "it has not been tried yet")
            return {"ready": False, "reason": reason[:_REASON_LETTERS]}
        version, export = manager.active, manager.export
        row: dict[str, Any] = {
            "ready": True,
            "version": version.name,
            "train_step": version.train_step,
            "engine": version.engine,
            "versions": self._versions_of(name, manager),
            "versions_total": manager.history.total,
        }
        if self._spread is not None and (sessions := self._spread.policies.get(name)):
            row["sessions"] = sessions
        if name in self._experience:
            row["experience"] = self._experience[name]
        if manager.traffic.has_report:
            row["traffic"] = manager.traffic.report()
        if manager.admission.paused is not None:
            row["paused"] = manager.admission.paused
        if manager.pinned is not None:
            row["pinned"] = manager.pinned
        if export.fresh is not None or export.reason:
            row["stale"] = export.reason[:_REASON_LETTERS]
        return row

    def _versions_of(self, name: str, manager: Manager) -> list[dict[str, Any]]:
        history = manager.history
        revision, rows = self._versions.get(name, (-1, []))
        if revision != history.revision:
            shown = history.latest(_MOST_VERSIONS)
            if manager.active not in shown:
                shown.append(manager.active)
            rows = [_row(version) for version in shown]
            self._versions[name] = history.revision, rows
        return rows


def _row(version: Version) -> dict[str, Any]:
    row = version.public()
    row["digest"] = version.digest[:_DIGEST_LETTERS]
    row["reason"] = version.reason[:_REASON_LETTERS]
    return {name: value for name, value in row.items() if value != ""}
