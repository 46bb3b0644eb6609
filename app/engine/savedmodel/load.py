"""A policy's graph → as many engines (copies of the policy) as are asked for; a checkpoint → restored into one.

Exports of `saver.PolicySaver` run from their `serving/` folder, for which TensorFlow alone is enough. Those that
came without it need the libraries that `app.engine.savedmodel.tf_agents_export` imports.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from app.artifacts.bundle import Bundle, Graph
from app.engine.savedmodel import missing_types
from app.engine.savedmodel.checkpoint_reader import (
    METADATA,
    TRAIN_STEP,
    WEIGHTS,
    Stored,
    StoredValues,
    numbers_in,
    prefix,
)
from app.engine.savedmodel.engine import FlatFunction, TensorFlowEngine
from app.engine.savedmodel.generators import draw_afresh, generator_states
from app.engine.savedmodel.tensor_files import ALIGNED, Room
from app.errors import SwapRefused, UnusablePolicy
from saver.artifact import SERVING_FOLDER, ServingInfo
from saver.artifact.literal_path import literal_path
from saver.stderr import hushed

PLAIN_FOLDER = "plain"
SIGNATURES = ("action", "get_initial_state")
# So many are read and assigned one by one; TensorFlow reads more of them faster, and without Python's lock.
_FEW = 2**18


def load_copy(graph: Graph) -> TensorFlowEngine:
    """A new copy of the policy, with the export's own weights.

    Raises:
      UnusablePolicy: TensorFlow cannot load it, or it lacks what its spec says.
    """
    model = load_graph(graph, graph.folder)
    engine = TensorFlowEngine(model, functions_of(graph, model)[0], graph.spec, graph.digest)
    engine.generators = generator_states(function.concrete for function in engine.functions.values())
    return engine


def load_graph(graph: Graph, named: Path) -> Any:
    """The SavedModel of a graph, loaded; errors name it `named`: see `load_model`."""
    if not graph.plain:
        return load_model(model_folder(graph), named)
    import_tf_agents_export()  # before loading: it registers the types
    try:
        return load_model(model_folder(graph), named)
    except UnusablePolicy as error:
        with hushed():
            found = missing_types.import_what_is_missing(str(error.__cause__))
        if not found:
            raise
    return load_model(model_folder(graph), named)


def functions_of(graph: Graph, model: Any) -> tuple[dict[str, FlatFunction], ServingInfo]:
    """The functions of a loaded policy, and what its serving functions take and return."""
    if graph.plain:
        functions = {name: FlatFunction.of_signature(model.signatures[name]) for name in SIGNATURES}
        more, serving = import_tf_agents_export().flat_functions(model, graph.spec)
        return functions | more, serving
    names = (*SIGNATURES, *(name for name in graph.serving.signatures if name in model.signatures))
    return {name: FlatFunction.of_signature(model.signatures[name]) for name in names}, graph.serving


def import_tf_agents_export() -> ModuleType:
    """The module for exports of TF-Agents' own saver, imported when one is loaded: its own imports take seconds."""
    with hushed():
        from app.engine.savedmodel import tf_agents_export
    return tf_agents_export


def restore(engine: TensorFlowEngine, graph: Graph, bundle: Bundle, values: StoredValues | None = None) -> None:
    """Puts the weights of a version into a copy; what it draws from a generator's state is its own from then on.

    After an exception the copy may be half overwritten: it has to be thrown away. `values`: those of the version, where
    its files have been opened already.

    Raises:
      SwapRefused: TensorFlow cannot read them.
    """
    # Files of a version were compared with their digests when it was made, and where it lay there at the start.
    own = bundle.digest == graph.digest
    source = model_folder(graph) if own else bundle.folder
    values = values or StoredValues(source, checked=not own)
    try:
        others = [stored for stored in values.all if not (values.checked and stored.is_large)]
        one_by_one = values.kept is not None or numbers_in(others) <= _FEW
        if not one_by_one or not _assigned(engine, values):
            _read(engine, values, source)
    except Exception as error:  # it has many kinds of errors for a file that it does not like
        raise SwapRefused(f"it cannot be restored: {str(error).strip().splitlines()[0][:200]}") from error
    draw_afresh(engine.generators)


def _read(engine: TensorFlowEngine, values: StoredValues, source: Path) -> None:
    """Has TensorFlow restore the values of a folder; raises whatever it raises."""
    # A new object each time: one that is used again leaks (54 KiB a restore were measured).
    checkpoint = tf.train.Checkpoint(**{"policy" if values.below_policy else "root": engine.model})
    with literal_path(source) as path:
        status = checkpoint.read(prefix(path))
    try:
        status.assert_consumed()
    except AssertionError:
        if not _assigned(engine, values):
            raise


def _assigned(engine: TensorFlowEngine, values: StoredValues) -> bool:
    """Assigns each value by its name; returns False, with nothing assigned, where there is more than named variables.

    Of few numbers it takes a third of TensorFlow's time. What is one variable in the files may be several in the model:
    TensorFlow restores such a value into the first of them only.
    """
    model = engine.model
    variables = {f"{WEIGHTS}/{index}": variable for index, variable in enumerate(getattr(model, WEIGHTS, ()))}
    variables |= {f"{METADATA}/{name}": variable for name, variable in getattr(model, METADATA, {}).items()}
    if hasattr(model, TRAIN_STEP):
        variables[TRAIN_STEP] = getattr(model, TRAIN_STEP)
    if not variables.keys() <= values.by_name.keys() or any(variables.keys().isdisjoint(v.names) for v in values.all):
        return False
    # One that has several names, in `METADATA` too, once: the values of all are the same.
    for name, variable in {id(variable): (name, variable) for name, variable in variables.items()}.values():
        stored = values.by_name[name]
        if stored.is_large:
            _assign_large(variable, values, stored, engine.rooms.setdefault(name, Room()))
        else:
            variable.assign(values.read(stored), read_value=False)
    return True


def _assign_large(variable: Any, values: StoredValues, stored: Stored, room: Room) -> None:
    """Has a variable take a value without a copy of it, in the memory of its last one where that can be."""
    # A scalar takes the place of what it holds, so that nothing uses the memory: then a shape cannot be compared.
    _set(variable, tf.zeros((), variable.dtype))
    value = values.take(stored, room)
    if not variable.shape.is_compatible_with(value.shape):
        raise ValueError(f"{stored.name} is {list(value.shape)}; expected {variable.shape}")
    fits = value.flags.c_contiguous and value.flags.writeable and value.ctypes.data % ALIGNED == 0
    _set(variable, tf.experimental.dlpack.from_dlpack(value.__dlpack__()) if fits else value)


def _set(variable: Any, value: Any) -> None:
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value, validate_shape=False)


def model_folder(graph: Graph) -> Path:
    """The folder of the SavedModel."""
    return graph.folder / (PLAIN_FOLDER if graph.plain else SERVING_FOLDER)


def load_model(folder: Path, named: Path) -> Any:
    """TensorFlow's loaded SavedModel; errors name it `named`.

    Raises:
      UnusablePolicy: it cannot be loaded, or is no policy.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(literal_path(folder))
        try:
            model = tf.saved_model.load(str(path))
        except Exception as error:  # whatever a damaged or foreign file makes TensorFlow raise
            text = missing_types.explained((str(error) or repr(error)).strip().splitlines()[0])
            raise UnusablePolicy(f"{named} cannot be loaded: {text.replace(str(path), str(named))}") from error
        weakref.finalize(model, stack.pop_all().close)  # a function may read a file of its assets when it is called
    missing = set(SIGNATURES) - set(model.signatures)
    if missing:
        raise UnusablePolicy(
            f"{named} is a SavedModel but no policy: it has no signature {sorted(missing)[0]!r}, "
            f"only {', '.join(sorted(model.signatures)) or 'none at all'}"
        )
    return model
