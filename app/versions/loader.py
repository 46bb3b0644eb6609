"""Bundles → engines, in a worker. TensorFlow is imported for the first bundle that needs it, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.artifacts.bundle import COMPILED_FILE, LITERT, TENSORFLOW, Bundle, Graph
from app.engine.base import Engine
from app.engine.litert import LiteRTEngine
from app.engine.savedmodel.one_core import import_tensorflow

if TYPE_CHECKING:
    from app.engine.savedmodel.engine import TensorFlowEngine


class BundleLoader:
    """Makes the engines of one policy: see `app.versions.active.Loader`.

    A SavedModel takes a second to load, and a checkpoint milliseconds to restore into one: what is no longer used is
    kept for the next version.
    """

    def __init__(self) -> None:
        self._spare: TensorFlowEngine | None = None

    def load(self, graph: Graph, bundle: Bundle) -> Engine:
        """See `Loader`."""
        if bundle.engine == LITERT:
            engine = LiteRTEngine(bundle.folder / COMPILED_FILE, graph.spec, graph.serving.noise)
            engine.sharing = bundle.sharing
            return engine
        import_tensorflow()
        from app.engine.savedmodel.load import load_copy, restore

        copy, self._spare = self._spare, None
        if copy is None or copy.graph != graph.digest:
            copy = load_copy(graph)
        copy.sharing = bundle.sharing
        restore(copy, graph, bundle)  # a copy that this fails on is not to be trusted, and is gone
        return copy

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        """See `Loader`."""
        if bundle.engine == TENSORFLOW and self._spare is None:
            from app.engine.savedmodel.load import load_copy

            self._spare = load_copy(graph)

    def give_back(self, engine: Engine) -> None:
        """See `Loader`."""
        if engine.name == TENSORFLOW:
            self._spare = engine  # type: ignore[assignment]
