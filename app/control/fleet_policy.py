"""One policy of this server as its fleet drives it: what other servers commit is served here too."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.artifacts.bundle import COMPILED_FILE, GRAPHS, VERSIONS, Bundle, Graph
from app.artifacts.records import Pin, VersionRecord
from app.control.commit import CommitProtocol, OneServer
from app.control.manager import Manager
from app.control.prepare import Fetch
from app.control.state_dir import MOST_RECORDS, StateDir
from app.control.targets import Past
from app.errors import Unauthorized, UnknownVersion
from app.fleet.fleet import Fleet
from app.fleet.follower import Following
from app.fleet.paths import files_path
from app.fleet.protocol import Committed, taking_part
from app.fleet.transfer import fetch
from app.offload import in_executor
from saver.artifact import digest_of


class FleetPolicy:
    """The host of one policy: see `app.fleet.follower.PolicyHost`. Event loop only."""

    def __init__(self, fleet: Fleet, manager: Manager, state_dir: StateDir) -> None:
        self._fleet = fleet
        self._manager = manager
        self._targets = manager.targets
        self._records = manager.records
        self._state_dir = state_dir
        self._paused: str | None = None
        self._executor = ThreadPoolExecutor(2, f"fleet-{manager.name}")
        manager.targets.preparing.fetch = fetcher(fleet, manager.name, self._executor)
        self._member, self._coordinator = fleet.member(manager.name, lambda: manager.active.name, MOST_RECORDS)

    async def join(self) -> None:
        """Takes part from now on: see `Fleet.join`."""
        self._targets.swapper.protocol = self._coordinator
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
        await self._swap(committed.active, OneServer(), lambda: committed)

    async def follow(self, record: VersionRecord, following: Following) -> None:
        """See `PolicyHost`."""
        await self._swap(record, following, lambda: following.committed)

    async def pause(self, mode: str | None) -> str | None:
        """Pauses the policy on every server of the fleet, or resumes it; returns what is in force then."""

        async def change() -> str | None:
            served, pin = self.serving()
            await self._coordinator.agree(served, pin, mode)
            return await self._set_pause(mode)

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
                await self._targets.persist(committed.pin)
            await self._set_pause(committed.paused)

    async def _set_pause(self, mode: str | None) -> str | None:
        if mode != self._paused:
            admission = self._manager.admission
            await (admission.resume() if mode is None else admission.pause(mode))
            self._paused = mode
        return mode

    async def describe(self) -> dict[str, Any]:
        """See `Fleet.describe`."""
        return await self._fleet.describe()

    def given_folder(self, kind: str, digest: str, secret: str) -> Path:
        """Returns the folder that another server asks for.

        Raises:
          Unauthorized: the secret is not the fleet's.
          UnknownVersion: the folder is not here.
        """
        if not self._fleet.secret or not hmac.compare_digest(secret.encode(), self._fleet.secret.encode()):
            raise Unauthorized("this is for the servers of the fleet")
        if digest.isalnum() and kind in (GRAPHS, VERSIONS):
            folder = self._state_dir.place(digest) if kind == VERSIONS else self._state_dir.graphs / digest
            if folder.is_dir():
                return folder
        raise UnknownVersion(f"nothing of digest {digest[:80]!r} is here")


def fetcher(fleet: Fleet, policy: str, executor: Executor) -> Fetch:
    """Returns what fetches the folders of a policy from other servers: see `app.control.prepare.Fetch`."""

    async def fetch_folder(kind: str, digest: str, destination: Path) -> None:
        accepts = _is_bundle if kind == VERSIONS else _is_graph
        await in_executor(
            executor,
            fetch,
            lambda: [peer.url for peer in fleet.peers],
            files_path(policy, kind, digest),
            fleet.secret,
            destination,
            lambda folder: accepts(folder, digest),
        )

    return fetch_folder


def _is_bundle(folder: Path, digest: str) -> bool:
    """Whether what has arrived is the version with this digest; one of another format has its weights all the same."""
    found = Bundle.read(folder)
    if found is None:
        return (folder / "variables").is_dir()
    weights = {name: sha256 for name, sha256 in found.files.items() if name != COMPILED_FILE}
    return found.digest == digest and (not weights or found.graph == digest or digest_of(weights) == digest)


def _is_graph(folder: Path, digest: str) -> bool:
    found = Graph.read(folder)
    return found is not None and found.digest == digest
