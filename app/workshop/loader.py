"""Bundles → engines, in a front. TensorFlow is imported for the first bundle that needs it, and not before."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from app.engine.base import Engine
from app.engine.bundle import COMPILED_FILE, LITERT, TENSORFLOW, Bundle, Graph
from app.engine.litert import LiteRTEngine
from saver.stderr import hushed

if TYPE_CHECKING:
    from app.engine.tensorflow import TensorFlowEngine


class BundleLoader:
    """One policy's engines: see `app.swap.copies.Loader`.

    A SavedModel takes a second to load, and a checkpoint milliseconds to restore into one: what is no longer used is
    kept for the next version.
    """

    def __init__(self) -> None:
        self._spare: TensorFlowEngine | None = None

    def load(self, graph: Graph, bundle: Bundle) -> Engine:
        """See `Loader`."""
        if bundle.engine == LITERT:
            engine = LiteRTEngine(bundle.folder / COMPILED_FILE, graph.spec, graph.serving.noise)
            engine.one_call, engine.whole_batches = bool(bundle.dependent_rows), bundle.whole_batches
            return engine
        _import_tensorflow()
        from app.workshop.load import load_copy, restore

        copy, self._spare = self._spare, None
        if copy is None or copy.graph != graph.digest:
            copy = load_copy(graph)
        copy.one_row, copy.whole_batches = bundle.one_row, bundle.whole_batches
        restore(copy, graph, bundle)  # a copy that this fails on is not to be trusted, and is gone
        return copy

    def stand_by(self, graph: Graph, bundle: Bundle) -> None:
        """See `Loader`."""
        if bundle.engine == TENSORFLOW and self._spare is None:
            from app.workshop.load import load_copy

            self._spare = load_copy(graph)

    def give_back(self, engine: Engine) -> None:
        """See `Loader`."""
        if engine.name == TENSORFLOW:
            self._spare = engine  # type: ignore[assignment]


def _import_tensorflow() -> None:
    if "tensorflow" not in sys.modules:
        # One call uses one core: for small matrices handing out the work takes longer than doing it, and cores that
        # are busy otherwise (other fronts, a swap being made ready) would make every call wait for its slowest part.
        for kind in ("INTRA", "INTER"):
            os.environ.setdefault(f"TF_NUM_{kind}OP_THREADS", "1")
        with hushed():
            import tensorflow  # noqa: F401
