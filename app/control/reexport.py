"""The export in a policy's folder: what was opened of it, and whether it has been saved again. Event loop only."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import Executor
from pathlib import Path

from app.artifacts.bundle import Graph
from app.artifacts.export import asset_files, identify_export
from app.artifacts.foreign import SPECS_FILE
from app.control.plan import OwnWeights
from app.control.prepare import OTHER_SPECS, Builder
from app.control.state_dir import StateDir
from app.errors import SwapRefused, UnusablePolicy
from app.logs import about
from app.offload import in_executor
from saver.artifact import GRAPH_FILE, POLICY_FILE

log = logging.getLogger("policy_server.swap")

Stamp = tuple[tuple[str, int, int, int], ...]
# What is not in the order in which a saver writes was copied, or is being written: it has this long to come to rest.
_SETTLED_S = 2.0
_VARIABLES = "variables"


class ExportFolder:
    """The export of one policy. `graph` is what its checkpoints are served with, `fresh` what was saved over it since.

    A fresh one is opened and has equal specs; it becomes `graph` by `adopt`, once it serves.
    """

    def __init__(self, name: str, folder: Path, builder: Builder, state_dir: StateDir, executor: Executor) -> None:
        self._name = name
        self._folder = folder
        self._builder = builder
        self._state_dir = state_dir
        self._executor = executor
        self._stamp: Stamp = ()
        self._judged: Stamp | None = None
        self.graph: Graph
        self.fresh: Graph | None = None
        # Whether `graph` was seen being saved again: then the time of its files counts.
        self.saved_again = False
        # Whether something calls `Manager.catch_up` whenever the policy's folder changes.
        self.watched = False
        self.reason = ""

    async def open(self) -> None:
        """Opens what lies there; what was opened before a restart is taken from the state folder.

        Raises:
          UnusablePolicy: it is no policy that can be served.
        """
        self._stamp = files_stamp(self._folder)
        exported = await in_executor(self._executor, identify_export, self._folder)
        there = await in_executor(self._executor, self._state_dir.graph, exported.digest)
        self.graph = there or await self._builder.open(self._folder, self._state_dir.graphs)
        if self.graph.python_code:
            code = "; ".join(self.graph.python_code)
            log.warning(
                "%s: Python code stayed in the process that saved the policy, and is missing: %s",
                self._name,
                code,
                extra=about(self._name),
            )

    @property
    def stale(self) -> bool:
        """Returns whether another export lies there than `graph`."""
        return files_stamp(self._folder) != self._stamp

    def own(self) -> OwnWeights:
        """Returns the weights of `graph`."""
        return _weights(self.graph, self._stamp if self.saved_again else None)

    def fresh_own(self) -> OwnWeights | None:
        """Returns the weights of `fresh`; the time of its files counts where it was watched being saved."""
        return _weights(self.fresh, self._judged if self.watched else None) if self.fresh is not None else None

    async def open_anew(self) -> Graph:
        """Opens what lies there now, whatever was thought of it before.

        Raises:
          SwapRefused: it cannot be loaded, or its specs differ, which callers have no way to notice.
        """
        before = files_stamp(self._folder)
        try:
            graph = await self._builder.open(self._folder, self._state_dir.graphs)
        except UnusablePolicy as error:
            raise SwapRefused(str(error)) from error
        if not graph.alike(self.graph):
            raise SwapRefused(OTHER_SPECS)
        self._judged = before
        return graph

    async def scan(self, rest_s: float, afresh: bool = False) -> bool:
        """Opens what was saved there since, once it is at rest; True where it is not yet.

        Raises:
          SwapRefused: it may not serve. It is not tried again until it changes, or somebody wants it `afresh`.
        """
        stamp = files_stamp(self._folder)
        if stamp == self._stamp or (afresh and self.fresh is None):
            self.fresh, self._judged, self.reason = None, None, ""
        if stamp in (self._stamp, self._judged) or GRAPH_FILE not in {name for name, *_ in stamp}:
            return False  # nothing else is there, or nothing at all: a trainer may delete it before it saves
        if not _at_rest(stamp, rest_s):
            return True
        self.fresh, self.reason = None, ""
        try:
            graph = await self.open_anew()
        except SwapRefused as refusal:
            if files_stamp(self._folder) != stamp or not _at_rest(stamp, _SETTLED_S):
                self._judged = None
                return True  # it was read while it was written
            self._judged, self.reason = stamp, str(refusal)
            raise
        if files_stamp(self._folder) != stamp:
            self._judged = None
            return True
        if graph.digest == self.graph.digest:
            self._stamp = stamp  # the same bytes
        else:
            self.fresh = graph
        return False

    def refuse(self, reason: str) -> None:
        """Notes that what was opened may not serve."""
        self.fresh, self.reason = None, reason

    def adopt(self, graph: Graph, watched: bool) -> None:
        """Notes that a graph serves: from now on checkpoints are served with it."""
        if graph.digest != self.graph.digest:
            self.saved_again = watched
        self.graph, self._stamp = graph, self._judged if self._judged is not None else self._stamp
        self.fresh, self._judged, self.reason = None, None, ""


def files_stamp(folder: Path) -> Stamp:
    """Changes when an export is saved over the one in the folder: names, sizes, times and inodes of its files."""
    paths = [folder / name for name in (GRAPH_FILE, SPECS_FILE, POLICY_FILE)]
    stamp = []
    with contextlib.suppress(OSError):
        paths += sorted((folder / _VARIABLES).iterdir())
    with contextlib.suppress(OSError):
        paths += asset_files(folder)
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        stamp.append((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(stamp)


def _at_rest(stamp: Stamp, rest_s: float) -> bool:
    """Returns whether an export is whole by its times: savers write the variables, the graph, and the specs last."""
    times = {name: mtime / 1e9 for name, _, mtime, _ in stamp}
    age_s = time.time() - max(times.values(), default=0.0)
    if -_SETTLED_S < age_s < rest_s:
        return False
    if POLICY_FILE in times or age_s >= _SETTLED_S or age_s <= -_SETTLED_S:
        return True
    written = [at for name, at in times.items() if name.startswith(_VARIABLES)]
    order = [max(written, default=0.0), times.get(GRAPH_FILE, 0.0), times.get(SPECS_FILE, 0.0)]
    return order == sorted(order)


def _weights(graph: Graph, stamp: Stamp | None) -> OwnWeights:
    written_at = max((mtime / 1e9 for _, _, mtime, _ in stamp), default=None) if stamp is not None else None
    return OwnWeights(graph.digest, graph.train_step, written_at)
