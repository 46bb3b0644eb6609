"""What is tried beside the active version by a whole fleet: one trial on all servers, with the figures of all."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import msgspec

from app.control.manager import Manager
from app.control.source import Scan
from app.control.targets import Past
from app.control.totals import Seen
from app.control.trial import Decided, Ended, SavedTraffic, SavedTrial, Trial
from app.control.trials import Conclusion, is_same
from app.errors import SwapRefused
from app.fleet.fleet import Fleet
from app.logs import about

log = logging.getLogger("policy_server.fleet")


class FleetTraffic:
    """The traffic of one policy on this server, as a member of a fleet. Event loop only."""

    def __init__(self, fleet: Fleet, manager: Manager) -> None:
        self._fleet = fleet
        self._policy = manager.name
        self._manager = manager
        self._traffic = manager.traffic
        self._trials = manager.traffic.trials

    def join(self) -> None:
        """Has figures be those of all servers from now on; what this one saw before a restart, the others know."""
        totals = self._trials.totals
        totals.begin()
        totals.begin_shadow()
        totals.exchange = self._exchange
        self._traffic.decides = lambda: self._fleet.decides

    async def _exchange(self, seen: Seen) -> list[Seen]:
        own = msgspec.json.encode(msgspec.to_builtins(seen, str_keys=True))
        others = []
        for member, text in (await self._fleet.exchange(self._policy, own)).items():
            try:
                others.append(msgspec.convert(msgspec.json.decode(text), Seen, strict=False))
            except msgspec.DecodeError as error:
                log.warning("%s: what member %s has seen cannot be read: %s", self._policy, member, error)
        return others

    async def adopt(self, agreed: str) -> None:
        """Tries here what is agreed on, and ends what is not, with the lock acquired."""
        trials, before = self._trials, self._trials.canary
        if agreed == self._manager.targets.tried:
            return
        saved = self._read(agreed)
        wanted = [one.record.name for one in (saved.canary, saved.shadow) if one is not None]
        scan = await self._manager.scanner.scan(only=set(wanted))
        canary, reason = await self._adopted(saved.canary, scan)
        shadow, _ = await self._adopted(saved.shadow, scan)
        ended = None if before is None else _how(saved.decided, before, reason)
        reason = await self._use(canary, shadow, ended) or reason
        if trials.canary is not None and not is_same(trials.canary, before):
            trials.note_canary()
        if reason:
            trials.totals.failed(f"member {self._fleet.id}: {reason}")
        trials.decided = saved.decided or trials.decided
        trials.stopped.known = saved.stopped
        await trials.refuse_stopped(scan)
        await trials.save()
        self._traffic.look_on()

    def _read(self, agreed: str) -> SavedTraffic:
        try:
            return SavedTraffic.from_json(msgspec.json.decode(agreed or "{}"))
        except msgspec.DecodeError as error:
            log.warning("%s: what the fleet tries cannot be read, and is not tried here: %s", self._policy, error)
            return SavedTraffic()

    async def _adopted(self, saved: SavedTrial | None, scan: Scan) -> tuple[Trial | None, str]:
        """Returns the trial on this server, or why there is none; its files come from whoever has them."""
        if saved is None:
            return None, ""
        for known in (self._trials.canary, self._trials.shadow):
            if known is not None and known.record == saved.record:
                return replace(known, wish=saved.wish, began_at=saved.began_at), ""
        try:
            version, graph, bundle = await self._manager.targets.beside(Past(saved.record, scan))
        except SwapRefused as refusal:
            name = saved.record.name
            log.warning("%s: %s cannot be tried here: %s", self._policy, name, refusal, extra=about(self._policy, name))
            return None, str(refusal)
        return Trial(saved.wish, version, graph, bundle, None, saved.began_at), ""

    async def _use(self, canary: Trial | None, shadow: Trial | None, ended: Conclusion | None) -> str:
        try:
            await self._trials.use(canary, shadow, ended)
        except SwapRefused as refusal:
            with contextlib.suppress(SwapRefused):
                await self._trials.use(None, None, ended)
            return str(refusal)
        return ""


def _how(decided: Decided | None, trial: Trial, reason: str) -> Conclusion:
    """How a trial that the fleet agrees on no more has ended."""
    if decided is not None and decided.version == trial.version.name:
        return decided.action, decided.reason, decided
    return Ended.END, reason or "the fleet tries it no more"
