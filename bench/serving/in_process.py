# ruff: noqa: T201
"""The engine called in a loop, without any HTTP: `python -m bench.serving.in_process STATE_DIR ROWS SECONDS`.

STATE_DIR is a server's, with one compiled policy in it. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.bundle import BUNDLE_MANIFEST, COMPILED_FILE, GRAPH_MANIFEST, Bundle, Graph
from app.engine.litert import LiteRTEngine
from bench import BenchError

_WARM_S = 0.3


def compiled_in(state: Path) -> tuple[Path, Graph]:
    """The newest compiled file in a server's state, and the graph that it belongs to."""
    bundle, graph = newest_compiled(state)
    return bundle.folder / COMPILED_FILE, graph


def newest_compiled(state: Path) -> tuple[Bundle, Graph]:
    """The newest version in a server's state that is compiled, and its graph."""
    graphs = {graph.digest: graph for graph in map(Graph.read, _parents(state, GRAPH_MANIFEST)) if graph}
    bundles = [bundle for bundle in map(Bundle.read, _parents(state, BUNDLE_MANIFEST)) if bundle]
    for bundle in sorted(bundles, key=lambda one: one.train_step, reverse=True):
        if (bundle.folder / COMPILED_FILE).exists() and bundle.graph in graphs:
            return bundle, graphs[bundle.graph]
    raise BenchError(f"nothing in {state} is compiled")


def measure(state: Path, rows: int, seconds: float) -> dict[str, float]:
    """Calls for `seconds`; latency is that of one call, with inputs that lie ready."""
    file, graph = compiled_in(state)
    engine = LiteRTEngine(file, graph.spec)
    noise = np.random.default_rng(0)
    inputs = {
        name: _filled(noise, (rows, *(size or 1 for size in tensor.shape[1:])), np.dtype(tensor.dtype))
        for name, tensor in graph.spec.signatures["action"].inputs.items()
    }
    _calls(engine, inputs, _WARM_S)
    cpu = time.process_time()
    began = time.perf_counter()
    took = sorted(_calls(engine, inputs, seconds))
    elapsed = time.perf_counter() - began
    return {
        "rate": len(took) / elapsed,
        "p50_ms": 1000 * took[len(took) // 2],
        "p99_ms": 1000 * took[len(took) * 99 // 100],
        "cpu_s_per_1000": 1000 * (time.process_time() - cpu) / len(took),
        "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _calls(engine: LiteRTEngine, inputs: dict[str, Any], seconds: float) -> list[float]:
    took = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        engine.run("action", inputs)
        took.append(time.perf_counter() - began)
    return took


def _filled(noise: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    values = noise.uniform(-1, 1, shape) if dtype.kind == "f" else noise.integers(0, 2, shape)
    filled: np.ndarray[Any, Any] = values.astype(dtype)
    return filled


def _parents(folder: Path, name: str) -> list[Path]:
    return [path.parent for path in folder.rglob(name)]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
