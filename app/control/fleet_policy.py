"""One policy of this server as its fleet drives it: what other servers commit is served here too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.artifacts.names import EXPORT
from app.artifacts.records import Pin, VersionRecord
from app.control.fleet_files import FleetFiles
from app.control.fleet_traffic import FleetTraffic
from app.control.manager import Manager
from app.control.state_dir import MOST_RECORDS
from app.control.targets import Past
from app.errors import FleetLost
from app.fleet.commit import CommitProtocol
from app.fleet.fleet import Fleet
from app.fleet.follower import Following
from app.fleet.paths import reload_path
from app.fleet.protocol import Committed, taking_part
from app.rpc.messages import Swapped


class FleetPolicy:
    """The host of one policy: see `app.fleet.follower.PolicyHost`. Event loop only."""

    def __init__(self, fleet: Fleet, manager: Manager, files: FleetFiles) -> None:
        self._fleet = fleet
        self.files = files
        self._manager = manager
        self._targets = manager.targets
        self._records = manager.records
        manager.targets.preparing.fetch = files.fetch
        manager.targets.preparing.note = files.note
        self._traffic = FleetTraffic(fleet, manager)
        self._member, self._coordinator = fleet.member(manager.name, lambda: manager.active.name, MOST_RECORDS)

    async def join(self) -> None:
        """Takes part from now on: see `Fleet.join`."""
        self._targets.swapper.protocol = self._coordinator
        self._traffic.join()
        await self._fleet.join(self._member, self)

    async def members(self) -> int:
        """Returns how many servers take part, this one among them."""
        seen = await self._member.read()
        return len(taking_part(seen.state, seen.live)) if seen.state is not None else 0

    def serving(self) -> tuple[tuple[VersionRecord, ...], Pin | None]:
        """See `PolicyHost`."""
        return tuple(self._records.served), self._records.pin

    async def serve(self, committed: Committed) -> None:
        """See `PolicyHost`."""
        await self._swap(committed.active, CommitProtocol(), lambda: committed)

    async def follow(self, record: VersionRecord, following: Following) -> None:
        """See `PolicyHost`."""
        await self._swap(record, following, lambda: following.committed)

    async def reload(self, name: str | None) -> Swapped:
        """Reloads a checkpoint on every server, or the newest that any of them has in its folder: see `Manager.reload`.

        The server in whose folder it lies makes the change.
        """
        own = await self.find(name)
        if name is None or own is None:
            url, newest = await self._fleet.ask_for_newest(reload_path(self._manager.name, "find"), name)
            if newest is not None and (own is None or newest > own):
                swapped = await self._fleet.ask_one(url, reload_path(self._manager.name, "reload"), name)
                if swapped is not None:
                    return Swapped(**swapped)
        return await self._manager.reload(name)

    async def find(self, name: str | None) -> int | None:
        """Returns the train step of a checkpoint in this server's folder, of the newest where `name` is None.

        None where there is none; -1 where it is unknown.
        """
        if name == EXPORT:
            return self._manager.export.graph.train_step
        async with self._manager.changes.lock:
            scan, _ = await self._manager.scanner.scan_for(name, afresh=False)
        if name is None:
            return max((candidate.train_step for candidate in scan.complete), default=None)
        steps = [candidate.train_step for candidate in scan.complete if candidate.name == name]
        return steps[0] if steps else -1 if scan.has(name) else None

    async def find_for(self, name: str | None, secret: str) -> int | None:
        """Does what `find` does, for another server; raises Unauthorized where the secret is not the fleet's."""
        await self.files.check(secret)
        return await self.find(name)

    async def reload_for(self, name: str | None, secret: str) -> Swapped:
        """Reloads what lies in this server's folder, for another server; raises as `find_for` and `reload` do."""
        await self.files.check(secret)
        return await self._manager.reload(name)

    async def pause(self, mode: str | None) -> str | None:
        """Pauses the policy on every server of the fleet, or resumes it; returns what is in force then.

        A pause that is in force already is returned, too, when no batch runs here any more.
        """

        async def change() -> str | None:
            try:
                await self._coordinator.pause(mode)
            except FleetLost as error:
                if error.is_committed:
                    await self._set_pause(mode)
                raise
            await self._set_pause(mode)
            return mode

        return await self._manager.changes.finish(self._manager.changes.run(change))

    async def _swap(self, record: VersionRecord, protocol: CommitProtocol, agreed: Callable[[], Committed]) -> None:
        """Swaps to what another server has prepared, and records what they have agreed on."""
        manager = self._manager
        async with manager.changes.lock:
            with self._targets.swapper.under(protocol):
                await manager.swap(Past(record, await manager.scanner.scan(only={record.name})))
                if isinstance(protocol, Following) and not protocol.is_prepared:  # it serves already
                    await protocol.prepared(record)
                    await protocol.held()
                committed = agreed()
                self._records.adopt(committed.served, committed.pin)
                await self._traffic.adopt(committed.traffic)
                await self._targets.persist(committed.pin)
            if committed.paused != manager.admission.paused:
                await self._set_pause(committed.paused)

    async def _set_pause(self, mode: str | None) -> None:
        admission = self._manager.admission
        await (admission.resume() if mode is None else admission.pause(mode))

    async def describe(self) -> dict[str, Any]:
        """See `Fleet.describe`."""
        return await self._fleet.describe()
