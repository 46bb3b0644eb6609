"""The server's own folder for one policy: which versions served last, what is pinned, and all that they run from.

So that neither a restart nor a trainer who cleans up takes anything from an operator. Blocks; control thread only.

    STATE_DIR/<policy>/state.json             what served last, and the pin
    STATE_DIR/<policy>/traffic.json           what is tried beside it, and what has come of that
    STATE_DIR/<policy>/graphs/<digest>/       the export's graph      (app/artifacts/bundle.py)
    STATE_DIR/<policy>/versions/<digest>/     the versions' bundles

What folders of policies and checkpoints hold: `saver.artifact`; what experience is kept in: `app.experience.row_log`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.artifacts.bundle import AUTO, BUNDLE_MANIFEST, GRAPHS, VERSIONS, Bundle, Graph
from app.artifacts.records import Pin, VersionRecord
from app.control.trial import SavedTraffic
from app.errors import UnusablePolicy
from app.logs import about
from saver.artifact import IncompleteError
from saver.artifact.files import read_manifest, write_json
from saver.artifact.publishing import discard, sweep

log = logging.getLogger("policy_server.swap")

FORMAT = 1
_STATE_FILE = "state.json"
_TRAFFIC_FILE = "traffic.json"
# The active version, and as many to roll back to.
MOST_RECORDS = 6


@dataclass(frozen=True)
class SavedState:
    """The state that survives a restart: the versions that served, oldest first and the active one last, and the pin.

    `export` is the digest of the export in the policy's folder; `saved_again`: it was seen being saved over another.
    """

    export: str
    served: tuple[VersionRecord, ...] = ()
    pin: Pin | None = None
    saved_again: bool = False


class StateDir:
    """The folder of one policy in the server's state directory. `engine`: what its versions shall run on, or "auto"."""

    def __init__(self, folder: Path, engine: str = AUTO) -> None:
        self._folder = folder
        self._engine = engine
        self._versions = folder / VERSIONS
        self.graphs = folder / GRAPHS
        self._known: dict[str, tuple[object, Bundle]] = {}
        # A look that is given up may be saving when the last word is to be saved.
        self._saving = threading.Lock()

    @contextlib.contextmanager
    def opened(self) -> Iterator[StateDir]:
        """Makes the folder, and keeps other servers out of it.

        Raises:
          UnusablePolicy: it cannot be written, or another server uses it.
        """
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY)
        except OSError as error:
            raise UnusablePolicy(f"the state folder {self._folder} cannot be used: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnusablePolicy(f"the state folder {self._folder} is in use by another server") from None
            except OSError:
                pass  # a file system without locks keeps nobody out
            self._tidy()
            yield self
        finally:
            os.close(descriptor)

    def _tidy(self) -> None:
        """Deletes what a server that was killed was writing."""
        for name in (_STATE_FILE, _TRAFFIC_FILE):
            for path in self._folder.glob(f".{name}.*"):
                path.unlink(missing_ok=True)
        for folder in (self._versions, self.graphs, self._folder / "uploads"):
            if folder.is_dir():
                sweep(folder)

    def load(self, export: str, graph: Graph | None = None) -> SavedState:
        """Reads what was saved under this export; an empty state where there is none or it cannot be read.

        A roll-back holds also over an export that was saved again, where the specs of its `graph` are equal.
        """
        try:
            data = read_manifest(self._folder / _STATE_FILE, FORMAT)
            if data is None:
                return SavedState(export)
            pin = Pin(str(data["pin"]["name"]), bool(data["pin"]["survives_deletion"])) if data["pin"] else None
            if data["export"] != export and not (
                pin is not None and pin.survives_deletion and self._alike(data["export"], graph)
            ):
                return SavedState(export)
            served = tuple(map(_record, data["served"]))
            return SavedState(export, served, pin, data["export"] != export or bool(data.get("saved_again")))
        except (IncompleteError, KeyError, TypeError, ValueError) as error:
            log.warning("%s: what served last is unknown: %s", self._folder.name, error, extra=about(self._folder.name))
            return SavedState(export)

    def _alike(self, export: str, graph: Graph | None) -> bool:
        before = self.graph(export)
        return before is not None and graph is not None and before.alike(graph)

    def save(self, saved_state: SavedState, besides: Collection[str] = ()) -> None:
        """Replaces what is saved, and deletes the graphs and bundles that it has no more use for.

        `besides` are digests of bundles and graphs that are in use all the same.

        A disk that is full or read-only costs the record, not the service: it is logged.
        """
        try:
            served = [
                {key: value for key, value in asdict(record).items() if value != ""} for record in saved_state.served
            ]
            write_json(
                self._folder / _STATE_FILE, {"format": FORMAT, **asdict(saved_state), "served": served}, sync=True
            )
            _keep_only(self._versions, {*besides, *(record.digest for record in saved_state.served)})
            _keep_only(self.graphs, {saved_state.export, *besides, *(record.graph for record in saved_state.served)})
        except OSError as error:
            log.warning(
                "%s: a restart will not know what served last: %s",
                self._folder.name,
                error,
                extra=about(self._folder.name),
            )

    def load_traffic(self) -> SavedTraffic:
        """Reads what was tried; nothing where there is none, or it cannot be read."""
        try:
            data = read_manifest(self._folder / _TRAFFIC_FILE, FORMAT)
            return SavedTraffic() if data is None else SavedTraffic.from_json(data)
        except (IncompleteError, msgspec.ValidationError) as error:
            log.warning("%s: what was tried is unknown: %s", self._folder.name, error, extra=about(self._folder.name))
            return SavedTraffic()

    def save_traffic(self, traffic: SavedTraffic) -> None:
        """Replaces what is saved of what is tried; a disk that takes nothing costs the record, as in `save`."""
        try:
            with self._saving:
                write_json(self._folder / _TRAFFIC_FILE, {"format": FORMAT, **traffic.to_json()}, sync=True)
        except OSError as error:
            log.warning(
                "%s: a restart will not know what is tried: %s",
                self._folder.name,
                error,
                extra=about(self._folder.name),
            )

    def forget(self, digest: str) -> None:
        """Deletes the bundle of a version."""
        with contextlib.suppress(OSError):  # it was gone
            discard(self.place(digest))

    def graph(self, digest: str) -> Graph | None:
        """Reads the graph of the export with that digest; None where it is not here."""
        return Graph.read(self.graphs / digest)

    def graph_of(self, digest: str) -> Graph | None:
        """Reads the graph that a version was prepared under; None where it was not, or the graph is gone."""
        known = self.version(digest)
        return None if known is None else self.graph(known.graph)

    def place(self, digest: str) -> Path:
        """Returns the place where the bundle of a version belongs."""
        return self._versions / digest

    def train_step(self, digest: str) -> int | None:
        """Reads the train step of a version that was prepared under whatever graph; None where it was not."""
        known = self.version(digest)
        return None if known is None else known.train_step

    def bundle(self, digest: str, graph: str) -> Bundle | None:
        """Reads the bundle of a version under a graph; None where there is none, or one for another engine."""
        found = self.version(digest)
        if found is None or (found.graph, found.asked_for) != (graph, self._engine):
            return None
        return found

    def version(self, digest: str) -> Bundle | None:
        """Returns the bundle of a version, whatever its graph and engine; None where there is none.

        Its files are compared the first time.
        """
        stamp = _stamp(self.place(digest) / BUNDLE_MANIFEST)
        known = self._known.get(digest)
        if known is not None and known[0] == stamp:
            return known[1]
        found = Bundle.read(self.place(digest))
        if found is not None:
            self._known[digest] = stamp, found
        return found

    def know(self, bundle: Bundle) -> None:
        """Notes the bundle of a version, at its place, whose files have been compared."""
        self._known[bundle.digest] = _stamp(bundle.folder / BUNDLE_MANIFEST), bundle


def _record(data: Mapping[str, Any]) -> VersionRecord:
    return VersionRecord(str(data["name"]), str(data["digest"]), int(data["train_step"]), str(data.get("graph", "")))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when another bundle takes the place of one."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


def _keep_only(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith(".") and path.name not in names:
            discard(path)
