"""A policy's folder → the versions that can answer again, each prepared as the builder prepares it for a server."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.artifacts.bundle import AUTO, Bundle, Graph
from app.artifacts.checkpoint_identity import Identity, identify
from app.artifacts.export import check_folder
from app.artifacts.names import EXPORT
from app.artifacts.series import resolved
from app.builder.builder import Builder
from app.builder.checkpoint_validation import train_step_in
from app.builder.open_export import open_export
from app.control.source import Source
from app.engine.base import Engine
from app.engine.savedmodel.load import load_copy, restore
from app.errors import SwapRefused, UnknownVersion
from app.settings import PolicyFolder
from app.versions.loader import BundleLoader
from app.wire.tensors import Arrays
from saver.artifact import GRAPH_FILE, LOG_PROB

# Of each, all of its weights are in memory.
_MOST_LOADED = 4


@dataclass
class Version:
    """A version that can answer: what it is, and the engine that runs it."""

    name: str
    train_step: int
    graph: Graph
    bundle: Bundle
    engine: Engine
    _copy: Any = None

    def log_prob(self, inputs: Arrays) -> Arrays:
        """Runs `log_prob`, which only TensorFlow has: on the inputs of `action`, and the leaves of an action."""
        if self._copy is None:
            copy = load_copy(self.graph)
            restore(copy, self.graph, self.bundle)
            self._copy = copy
        outputs: Arrays = self._copy.run(LOG_PROB, inputs)
        return outputs


class Versions:
    """The versions in a policy's folder. Each is prepared when it is first asked for.

    Args:
      folder: of the export, or of a series of exports.
      own: an empty folder for what is made of it.
      engine: what runs them: see `Builder`.

    Raises:
      UnusablePolicy: no export of a policy lies there.
    """

    def __init__(self, folder: Path, own: Path, engine: str = AUTO) -> None:
        named = resolved(PolicyFolder(folder.name, folder))
        check_folder(named.folder)
        self._own = own
        self._asked_for = engine
        self.graph = open_export(named.folder, own / "graphs")
        more = [named.series] if named.series else []
        self._scan = Source(named.folder, _identified, more).scan(rest_s=0)
        self._builders = {self.graph.digest: Builder(self.graph, engine)}
        self._loaded: OrderedDict[str, Version] = OrderedDict()
        self._missing: dict[str, SwapRefused | UnknownVersion] = {}
        self.action_draws = self._builders[self.graph.digest].action_draws

    def named(self, name: str) -> Version:
        """Returns the version of that name.

        Raises:
          UnknownVersion: there is none; the message lists the newest.
          SwapRefused: it may not serve.
        """
        if name in self._missing:
            raise self._missing[name]
        if name not in self._loaded:
            try:
                self._loaded[name] = self._made(name)
            except (SwapRefused, UnknownVersion) as refusal:
                self._missing[name] = refusal
                raise
            if len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def find(self, name: str, train_step: int) -> Version | None:
        """Returns the version that rows name; None where it is gone, or another has its name now."""
        try:
            version = self.named(name)
        except (UnknownVersion, SwapRefused):
            return None
        return version if version.train_step == train_step else None

    def _made(self, name: str) -> Version:
        graph, source, digest = self.graph, None, self.graph.digest
        if name != EXPORT:
            candidate = self._scan.named(name)
            source, digest = candidate.folder, candidate.digest
            graph = self._graph_for(source)
        place = self._own / "versions" / digest
        bundle = Bundle.read(place)
        if bundle is None:
            place.parent.mkdir(exist_ok=True)
            bundle = self._builders[graph.digest].prepare(source, digest, place).bundle
        engine = BundleLoader().load(graph, bundle)
        return Version(name, bundle.train_step, graph, bundle, engine)

    def _graph_for(self, folder: Path) -> Graph:
        """That of the policy, or of a checkpoint that is an export of other constants."""
        if not (folder / GRAPH_FILE).exists() or not self._builders[self.graph.digest].needs_own_graph(folder):
            return self.graph
        graph = open_export(folder, self._own / "graphs")
        if not graph.alike(self.graph):
            raise SwapRefused("it is an export of other specs")
        self._builders.setdefault(graph.digest, Builder(graph, self._asked_for))
        return graph


def _identified(folder: Path, rest_s: float) -> Identity:
    return identify(folder, rest_s, lambda checkpoint, _: train_step_in(checkpoint))
