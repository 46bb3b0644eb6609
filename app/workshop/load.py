"""A policy's folder → its graph, copied; a graph → as many engines (copies of the policy) as are asked for.

Exports of `saver.PolicySaver` run from their `serving/` folder, for which TensorFlow alone is enough. Those that
came without it need the libraries that `app.workshop.plain` imports.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from app.engine.bundle import Bundle, Graph
from app.engine.tensorflow import FlatFunction, TensorFlowEngine
from app.errors import SwapRefused, UnusablePolicy
from app.folders.exports import Exported, identify_export
from app.wire import json_body
from app.workshop.generators import draw_afresh, generator_states
from app.workshop.stored import METADATA, TRAIN_STEP, WEIGHTS, StoredValues, as_train_step, prefix
from saver.artifact import SERVING_FOLDER, IncompleteError, Noise, PolicySpec, ServingInfo, copy_files
from saver.artifact.publishing import publish, staged_folder
from saver.impure_ops import python_code
from saver.stderr import hushed

PLAIN_FOLDER = "plain"
SIGNATURES = ("action", "get_initial_state")
# What stands in a graph until it is known.
_UNKNOWN = PolicySpec((), (), (), (), (), None, True, {})
_NONE = ServingInfo({}, {}, Noise(0, 0), {})


def open_export(folder: Path, graphs: Path) -> Graph:
    """Copies the graph of the export in `folder` to `graphs/<digest>`, where it is not there yet, and reads it.

    Raises:
      UnusablePolicy: no export of a policy, or one that cannot be loaded; the message says what is wrong with it.
    """
    exported = identify_export(folder)
    there = Graph.read(graphs / exported.digest)
    if there is not None:
        return there
    with staged_folder(graphs / exported.digest) as staged:
        graph = _copied(exported, staged)
        model = _load(graph, folder)
        if exported.manifest is None:
            graph = replace(graph, spec=_plain().spec_of_plain(folder, model))
        functions, serving = _functions(graph, model)
        python = tuple(f"{name}: {code}" for name in SIGNATURES for code in python_code(functions[name].concrete))
        graph = replace(graph, serving=serving, train_step=train_step_of(model), python_code=python)
        graph.write()
        publish(staged, graphs / exported.digest, sync=False)
    return replace(graph, folder=graphs / exported.digest)


def _copied(exported: Exported, staged: Path) -> Graph:
    """The graph, copied; its spec and serving functions as far as its manifest knows them."""
    manifest = exported.manifest
    if manifest is not None and manifest.serving is not None:
        names = [name for name in manifest.files if name.startswith(f"{SERVING_FOLDER}/")]
        plain, target = False, staged
    else:
        names, plain, target = _files_of_plain(exported.folder), True, staged / PLAIN_FOLDER
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


def _files_of_plain(folder: Path) -> list[str]:
    """A SavedModel's own files: checkpoints, and whatever else somebody has put there, stay where they are."""
    tops = [folder.glob("*"), *((folder / name).rglob("*") for name in ("assets", "assets.extra", "variables"))]
    return [path.relative_to(folder).as_posix() for top in tops for path in top if path.is_file()]


def load_copy(graph: Graph) -> TensorFlowEngine:
    """A new copy of the policy, with the export's own weights.

    Raises:
      UnusablePolicy: TensorFlow cannot load it, or it lacks what its spec says.
    """
    model = _load(graph, graph.folder)
    engine = TensorFlowEngine(model, _functions(graph, model)[0], graph.spec, graph.digest)
    engine.generators = generator_states(function.concrete for function in engine.functions.values())
    return engine


def _load(graph: Graph, named: Path) -> Any:
    if graph.plain:
        _plain()  # before loading: it registers the types
    return load_model(model_folder(graph), named)


def _functions(graph: Graph, model: Any) -> tuple[dict[str, FlatFunction], ServingInfo]:
    if graph.plain:
        functions = {name: FlatFunction.of_signature(model.signatures[name]) for name in SIGNATURES}
        more, serving = _plain().flat_functions(model, graph.spec)
        return functions | more, serving
    names = (*SIGNATURES, *(name for name in graph.serving.signatures if name in model.signatures))
    return {name: FlatFunction.of_signature(model.signatures[name]) for name in names}, graph.serving


def _plain() -> ModuleType:
    with hushed():
        from app.workshop import plain  # here: most servers do without its imports
    return plain


def restore(engine: TensorFlowEngine, graph: Graph, bundle: Bundle) -> None:
    """Puts the weights of a version into a copy; what it draws from a generator's state is its own from then on.

    After an exception the copy may be half overwritten: it has to be thrown away.

    Raises:
      SwapRefused: TensorFlow cannot read them.
    """
    source = model_folder(graph) if bundle.digest == graph.digest else bundle.folder
    values = StoredValues(source)
    # A new object each time: one that is used again leaks (54 KiB a restore were measured).
    checkpoint = tf.train.Checkpoint(**{"policy" if values.below_policy else "root": engine.model})
    try:
        status = checkpoint.read(prefix(source))
        try:
            status.assert_consumed()
        except AssertionError:
            if not _assigned(engine.model, values):
                raise
    except Exception as error:  # it has many kinds of errors for a file that it does not like
        raise SwapRefused(f"it cannot be restored: {str(error).strip().splitlines()[0][:200]}") from error
    draw_afresh(engine.generators)


def _assigned(model: Any, values: StoredValues) -> bool:
    """Assigns each value by its name, where what is one variable in the files is several in the model.

    TensorFlow restores such a value into the first of them only. False where there is more than named variables.
    """
    variables = {f"{WEIGHTS}/{index}": variable for index, variable in enumerate(getattr(model, WEIGHTS, ()))}
    variables |= {f"{METADATA}/{name}": variable for name, variable in getattr(model, METADATA, {}).items()}
    if hasattr(model, TRAIN_STEP):
        variables[TRAIN_STEP] = getattr(model, TRAIN_STEP)
    if not variables.keys() <= values.by_name.keys() or any(variables.keys().isdisjoint(v.names) for v in values.all):
        return False
    for name, variable in variables.items():
        variable.assign(values.read(values.by_name[name]))
    return True


def model_folder(graph: Graph) -> Path:
    """Where the SavedModel lies."""
    return graph.folder / (PLAIN_FOLDER if graph.plain else SERVING_FOLDER)


def load_model(folder: Path, named: Path) -> Any:
    """TensorFlow's loaded SavedModel; errors name it `named`.

    Raises:
      UnusablePolicy: it cannot be loaded, or is no policy.
    """
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # whatever a damaged or foreign file makes TensorFlow raise
        text = (str(error) or repr(error)).strip().splitlines()[0]
        raise UnusablePolicy(f"{named} cannot be loaded: {text.replace(str(folder), str(named))}") from error
    missing = set(SIGNATURES) - set(model.signatures)
    if missing:
        raise UnusablePolicy(
            f"{named} is a SavedModel but no policy: it has no signature {sorted(missing)[0]!r}, "
            f"only {', '.join(sorted(model.signatures)) or 'none at all'}"
        )
    return model


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
