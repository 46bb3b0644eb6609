"""A policy's folder → its graph: copied, read, and described."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.artifacts.bundle import Graph
from app.artifacts.export import Exported, identify_export
from app.builder.checkpoint_validation import train_step_in
from app.engine.savedmodel.checkpoint_reader import as_train_step
from app.engine.savedmodel.load import (
    PLAIN_FOLDER,
    SIGNATURES,
    functions_of,
    import_tf_agents_export,
    load_graph,
    model_folder,
)
from app.errors import UnusablePolicy
from app.wire import json_body
from saver.artifact import SERVING_FOLDER, IncompleteError, Noise, PolicySpec, ServingInfo, copy_files
from saver.artifact.publishing import publish, staged_folder
from saver.impure_ops import python_code

# What stands in a graph until it is known.
_UNKNOWN = PolicySpec((), (), (), (), (), None, True, {})
_NONE = ServingInfo({}, {}, Noise(0, 0), {})


def open_export(folder: Path, graphs: Path, known: Iterable[Graph] = ()) -> Graph:
    """Copies the graph of the export in `folder` to `graphs/<digest>`, where it is not there yet, and reads it.

    Args:
      folder: the export's.
      graphs: the folder of all graphs.
      known: those that were read before. One that differs in weights alone says what there is to say of the functions.

    Raises:
      UnusablePolicy: no export of a policy, or one that cannot be loaded; the message says what is wrong with it.
    """
    exported = identify_export(folder)
    there = Graph.read(graphs / exported.digest)
    if there is not None:
        return there
    with staged_folder(graphs / exported.digest) as staged:
        graph = _copied(exported, staged)
        like = next((other for other in known if not graph.plain and graph.differs_in_weights_alone(other)), None)
        if like is None:
            graph = _described(graph, exported)
        else:
            graph = replace(graph, train_step=train_step_in(model_folder(graph)), python_code=like.python_code)
        graph.write()
        publish(staged, graphs / exported.digest, sync=False)
    return replace(graph, folder=graphs / exported.digest)


def _described(graph: Graph, exported: Exported) -> Graph:
    """The graph with what the loaded model says of it."""
    model = load_graph(graph, exported.folder)
    if exported.manifest is None:
        graph = replace(graph, spec=import_tf_agents_export().spec_of_export(exported.folder, model))
    functions, serving = functions_of(graph, model)
    python = tuple(f"{name}: {code}" for name in SIGNATURES for code in python_code(functions[name].concrete))
    return replace(graph, serving=serving, train_step=train_step_of(model), python_code=python)


def _copied(exported: Exported, staged: Path) -> Graph:
    """The graph, copied; its spec and serving functions as far as its manifest knows them."""
    manifest = exported.manifest
    if manifest is not None and manifest.serving is not None:
        names = [name for name in manifest.files if name.startswith(f"{SERVING_FOLDER}/")]
        plain, target = False, staged
    else:
        names, plain, target = _saved_model_files(exported.folder), True, staged / PLAIN_FOLDER
    try:
        files = copy_files(exported.folder, names, target, exported.files)
    except IncompleteError as error:
        raise UnusablePolicy(f"{exported.folder} was replaced while it was read: {error}") from None
    except OSError as error:
        raise UnusablePolicy(f"{exported.folder} cannot be copied: {error.strerror}") from error
    root = target.relative_to(staged)
    spec, serving = (manifest.spec, manifest.serving) if manifest else (_UNKNOWN, None)
    hashes = {(root / name).as_posix(): digest for name, digest in files.items()}
    return Graph(staged, exported.digest, spec, serving or _NONE, plain, hashes)


def _saved_model_files(folder: Path) -> list[str]:
    """A SavedModel's own files: checkpoints, and whatever else somebody has put there, stay where they are."""
    tops = [folder.glob("*"), *((folder / name).rglob("*") for name in ("assets", "assets.extra", "variables"))]
    return [path.relative_to(folder).as_posix() for top in tops for path in top if path.is_file()]


def train_step_of(model: Any) -> int:
    """The train step in a model's variables; -1 where it has none."""
    return as_train_step(model.get_train_step().numpy()) if hasattr(model, "get_train_step") else -1


def metadata_of(model: Any) -> dict[str, Any]:
    """The metadata in a model's variables, by name, as JSON.

    By the function and not the signature: that one is keyed by dtype and loses entries.
    """
    if not hasattr(model, "get_metadata"):
        return {}
    # A string's numpy() is bytes and no array.
    types = {tf.string: object}
    arrays = {name: np.array(value.numpy(), types.get(value.dtype)) for name, value in model.get_metadata().items()}
    decoded: dict[str, Any] = json_body.decode(json_body.encode(arrays))
    return decoded
