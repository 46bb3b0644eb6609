"""Files of one policy that servers of a fleet have from each other: graphs, versions, and uploaded checkpoints."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from app.artifacts.bundle import COMPILED_FILE, GRAPHS, VERSIONS, Bundle, Graph
from app.artifacts.records import VersionRecord
from app.control.manager import Manager
from app.control.state_dir import StateDir
from app.errors import FleetLost, SwapRefused, Unauthorized, UnknownVersion, is_lack_of_room
from app.fleet.fleet import Fleet
from app.fleet.paths import CHECKPOINTS, files_path, upload_path
from app.fleet.stream import Compared, compared_in
from app.fleet.transfer import Accepts, Wanted, fetch
from app.offload import in_executor
from saver.artifact import IncompleteError, digest_of, is_name, read_checkpoint_manifest

# Others take what is new; what is older is read once more.
_MOST_COMPARED = 8


class FleetFiles:
    """The files of one policy. Event loop only.

    `uploads`: where uploaded checkpoints may lie; the first that can be written is taken.
    """

    def __init__(
        self, fleet: Fleet, manager: Manager, state_dir: StateDir, uploads: Sequence[Path], executor: Executor
    ) -> None:
        self._fleet = fleet
        self._manager = manager
        self._state_dir = state_dir
        self._uploads = uploads
        self._executor = executor
        self._compared: dict[str, Compared] = {}

    async def note(self, bundle: Bundle) -> None:
        """Notes the files of a version as they are now, where whoever made them has just compared them."""
        await in_executor(self._executor, self._note, bundle)

    def _note(self, bundle: Bundle) -> None:
        with contextlib.suppress(OSError):  # whoever takes it compares it then
            self._compared[bundle.digest] = compared_in(bundle.folder, bundle.files)
            if len(self._compared) > _MOST_COMPARED:
                del self._compared[next(iter(self._compared))]

    async def fetch(self, kind: str, digest: str, destination: Path) -> None:
        """Fetches a graph or a version: see `app.control.prepare.Fetch`."""
        is_wanted = _is_bundle if kind == VERSIONS else _is_graph
        try:
            hashes = await self._fetch(kind, digest, destination, partial(is_wanted, digest))
            if kind == VERSIONS:
                await in_executor(self._executor, self._know, destination, hashes)
        except OSError as error:
            refusal = SwapRefused(f"what another server gives cannot be stored: {error.strerror}", for_now=True)
            refusal.no_room = is_lack_of_room(error)
            raise refusal from None

    def _know(self, place: Path, hashes: Mapping[str, str]) -> None:
        bundle = Bundle.read(place, hashes)
        if bundle is not None:
            self._state_dir.know(bundle)
            self._note(bundle)

    async def given(self, kind: str, name: str, secret: str) -> tuple[Path, Compared]:
        """Returns the folder that another server asks for: a graph or a version by its digest, a checkpoint by name.

        With what of its files has been compared since this server started.

        Raises:
          Unauthorized: the secret is not the fleet's.
          UnknownVersion: the folder is not here.
        """
        await self.check(secret)
        if kind == CHECKPOINTS and is_name(name):
            places = [folder / name for folder in self._uploads]
        elif kind in (GRAPHS, VERSIONS) and name.isalnum():
            places = [self._state_dir.place(name) if kind == VERSIONS else self._state_dir.graphs / name]
        else:
            places = []
        for place in places:
            with contextlib.suppress(OSError):  # too long for a name, say
                if place.is_dir():
                    return place, self._compared.get(name, {}) if kind == VERSIONS else {}
        raise UnknownVersion(f"nothing of the name {name[:80]!r} is here")

    async def obtain_version(self, digest: str) -> tuple[Graph, Bundle]:
        """Returns a version that sessions started with, from another server where it is not here.

        Raises:
          SwapRefused: nobody has it any more.
        """
        place, own = self._state_dir.place(digest), self._manager.export.graph
        bundle = await in_executor(self._executor, Bundle.read, place)
        if bundle is None:
            await self.fetch(VERSIONS, digest, place)
            bundle = await in_executor(self._executor, Bundle.read, place)
        if bundle is None:
            raise SwapRefused("the other servers of the fleet have it in a form that this one does not read")
        if bundle.graph == own.digest:
            return own, bundle
        await self._manager.targets.preparing.obtain(VersionRecord("", digest, -1, bundle.graph), own)
        graph = await in_executor(self._executor, self._state_dir.graph, bundle.graph)
        if graph is None:
            raise SwapRefused("its graph is gone")
        return graph, bundle

    async def share_upload(self, name: str, digest: str) -> None:
        """Returns when every other server of the fleet has an uploaded checkpoint too.

        Raises:
          SwapRefused: one cannot store it.
        """
        await self._fleet.ask_all(upload_path(self._manager.name, name), {"digest": digest})

    async def take_upload(self, name: str, digest: str, secret: str) -> None:
        """Fetches a checkpoint that was uploaded to another server, where it is not here.

        Raises:
          Unauthorized: the secret is not the fleet's.
          SwapRefused: it cannot be fetched, or stored.
        """
        await self.check(secret)
        if not is_name(name) or any(_digest_in(folder / name) == digest for folder in self._uploads):
            return
        reasons = []
        for folder in self._uploads:
            try:
                await self._fetch(CHECKPOINTS, name, folder / name, partial(_is_whole, digest))
                return
            except OSError as error:
                reasons.append(f"{folder}: {error.strerror}")
        raise SwapRefused(f"no folder for checkpoints can be written ({'; '.join(reasons)})")

    async def _fetch(self, kind: str, name: str, destination: Path, accepts: Accepts) -> Mapping[str, str]:
        path = files_path(self._manager.name, kind, name)
        # A trainer may write over the files of a checkpoint; nobody writes to those of a version that is there.
        wanted = Wanted(path, self._fleet.secret, destination, accepts, linked=kind != CHECKPOINTS)
        return await in_executor(self._executor, fetch, partial(self._fleet.givers, self._manager.name), wanted)

    async def check(self, secret: str) -> None:
        """Raises Unauthorized where that is not the fleet's secret, as Redis has it now."""
        if not self._is_known(secret):
            with contextlib.suppress(FleetLost):
                await self._fleet.read_secret()
        if not self._is_known(secret):
            raise Unauthorized("this is for the servers of the fleet")

    def _is_known(self, secret: str) -> bool:
        known = self._fleet.secret
        return bool(known) and hmac.compare_digest(secret.encode(), known.encode())


def _is_bundle(digest: str, folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether what has arrived is the version with this digest; one of another format has its weights all the same."""
    found = Bundle.read(folder, hashes)
    if found is None:
        return not Bundle.is_of_this_format(folder) and (folder / "variables").is_dir()
    weights = {name: sha256 for name, sha256 in found.files.items() if name != COMPILED_FILE}
    return found.digest == digest and (not weights or found.graph == digest or digest_of(weights) == digest)


def _is_graph(digest: str, folder: Path, hashes: Mapping[str, str]) -> bool:
    found = Graph.read(folder, hashes)
    return found is not None and found.digest == digest


def _is_whole(digest: str, folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether what has arrived is the checkpoint with this digest, and all of it."""
    with contextlib.suppress(IncompleteError):
        manifest = read_checkpoint_manifest(folder)
        if manifest is not None and manifest.digest == digest:
            return manifest.files.items() <= hashes.items()
    return False


def _digest_in(folder: Path) -> str:
    """That of the checkpoint in a folder; "" where there is none."""
    with contextlib.suppress(IncompleteError):
        manifest = read_checkpoint_manifest(folder)
        return manifest.digest if manifest is not None else ""
    return ""
