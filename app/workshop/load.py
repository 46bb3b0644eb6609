"""A policy's folder → its spec, and as many engines (copies of it) as are asked for.

Exports of `saver.PolicySaver` run from their `serving/` folder, for which TensorFlow alone is enough. Those that
came without it need the libraries that `app.workshop.plain` imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.engine.tensorflow import FlatFunction, TensorFlowEngine
from app.errors import UnusablePolicy
from saver.artifact import (
    GRAPH_FILE,
    SERVING_FOLDER,
    IncompleteError,
    PolicySpec,
    ServingInfo,
    check_files,
    check_is_export,
    digest_of,
    hash_files,
    read_policy_manifest,
)
from saver.hush import hushed

Stamps = dict[str, "tuple[int, int, int] | None"]
SIGNATURES = ("action", "get_initial_state")


@dataclass(frozen=True)
class Export:
    """What an export's folder says: spec, serving functions (None without `serving/`), digest, stamps of its files."""

    folder: Path
    spec: PolicySpec
    serving: ServingInfo | None
    digest: str
    has_manifest: bool
    stamps: Stamps


@dataclass(frozen=True)
class Copy:
    """One loaded copy of a policy: its engine, and what it can do beside `action`."""

    engine: TensorFlowEngine
    serving: ServingInfo


def open_export(folder: Path) -> Export:
    """Reads what kind of policy lies in `folder`.

    Raises:
      UnusablePolicy: no export of a policy, or an incomplete one; the message says what is wrong with it.
    """
    try:
        check_is_export(folder)
    except IncompleteError as error:
        raise UnusablePolicy(str(error)) from None
    try:
        manifest = read_policy_manifest(folder)
        if manifest is not None:
            stamps = _stamps(folder, list(manifest.files))
            check_files(folder, manifest.files)
            digest = digest_of(manifest.files)
            return Export(folder, manifest.spec, manifest.serving, digest, has_manifest=True, stamps=stamps)
    except IncompleteError as error:
        raise UnusablePolicy(f"{folder} is no complete export: {error}") from None
    with hushed():
        from app.workshop import plain  # here: most servers do without its imports

    files = [folder / GRAPH_FILE, *(p for p in (folder / "variables").glob("*") if p.is_file())]
    hashes = hash_files(folder, files)
    stamps = _stamps(folder, list(hashes))
    spec = plain.spec_of_plain(folder, load_model(folder))
    return Export(folder, spec, None, digest_of(hashes), has_manifest=False, stamps=stamps)


def load_copy(export: Export) -> Copy:
    """A new copy of the policy, with the export's own weights.

    Raises:
      UnusablePolicy: TensorFlow cannot load it, it lacks what its spec says, or it was replaced meanwhile.
    """
    if export.serving is not None:
        model = load_model(export.folder / SERVING_FOLDER)
        names = (*SIGNATURES, *(name for name in export.serving.signatures if name in model.signatures))
        functions = {name: FlatFunction.of_signature(model.signatures[name]) for name in names}
        serving = export.serving
    else:
        with hushed():
            from app.workshop import plain  # before loading: it registers the types

        model = load_model(export.folder)
        functions = {name: FlatFunction.of_signature(model.signatures[name]) for name in SIGNATURES}
        more, serving = plain.flat_functions(model, export.spec)
        functions |= more
    if _stamps(export.folder, list(export.stamps)) != export.stamps:
        raise UnusablePolicy(f"{export.folder} was replaced while it was read")
    return Copy(TensorFlowEngine(model, functions, export.spec), serving)


def load_model(folder: Path) -> Any:
    """TensorFlow's loaded SavedModel.

    Raises:
      UnusablePolicy: it cannot be loaded, or is no policy.
    """
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # whatever a damaged or foreign file makes TensorFlow raise
        text = str(error).strip().splitlines()
        raise UnusablePolicy(f"{folder} cannot be loaded: {text[0] if text else error!r}") from error
    missing = {"action", "get_initial_state"} - set(model.signatures)
    if missing:
        raise UnusablePolicy(
            f"{folder} is a SavedModel but no policy: it has no signature {sorted(missing)[0]!r}, "
            f"only {', '.join(sorted(model.signatures)) or 'none at all'}"
        )
    return model


def train_step_of(model: Any) -> int:
    """The train step in a model's variables; -1 where it has none."""
    return int(model.get_train_step()) if hasattr(model, "get_train_step") else -1


def metadata_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The metadata in a model's variables, by name.

    By the function and not the signature: that one is keyed by dtype and loses entries.
    """
    if not hasattr(model, "get_metadata"):
        return {}
    # A string's numpy() is bytes and no array.
    types = {tf.string: object}
    return {name: np.array(value.numpy(), types.get(value.dtype)) for name, value in model.get_metadata().items()}


def _stamps(folder: Path, names: list[str]) -> Stamps:
    return {name: stamp(folder / name) for name in names}


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
