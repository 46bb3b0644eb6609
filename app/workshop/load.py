"""A policy's folder → its spec, and as many engines (copies of it) as are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

# Both register the distribution types that the exports of policies refer to: without them, no loading.
import tensorflow_probability  # noqa: F401
import tf_agents.distributions  # noqa: F401
from tf_agents.policies.policy_saver import specs_from_collect_data_spec
from tf_agents.specs import tensor_spec

from app.engine.tensorflow import FlatFunction, TensorFlowEngine
from app.errors import UnusablePolicy
from app.workshop.flat_distribution import FlatDistributions, flat_distribution
from saver.artifact import (
    GRAPH_FILE,
    POLICY_FILE,
    IncompleteError,
    PolicySpec,
    check_files,
    check_is_export,
    digest_of,
    hash_files,
    leaves,
    read_policy_manifest,
)
from saver.specs import PolicySpecs, spec_of

SPECS_FILE = "policy_specs.pbtxt"


@dataclass(frozen=True)
class Export:
    """What an export's folder says: spec, digest of the graph and its weights, where the spec came from."""

    folder: Path
    spec: PolicySpec
    digest: str
    has_manifest: bool


@dataclass(frozen=True)
class Copy:
    """One loaded copy of a policy: its engine, and the form of its distributions (or why there is none)."""

    engine: TensorFlowEngine
    distributions: FlatDistributions | None
    no_distribution: str


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
            check_files(folder, manifest.files)
            return Export(folder, manifest.spec, digest_of(manifest.files), has_manifest=True)
    except IncompleteError as error:
        raise UnusablePolicy(f"{folder} is no complete export: {error}") from None
    model = load_model(folder)
    spec = _spec_of_plain(folder, model)
    files = [folder / GRAPH_FILE, *(p for p in (folder / "variables").glob("*") if p.is_file())]
    return Export(folder, spec, digest_of(hash_files(folder, files)), has_manifest=False)


def load_copy(export: Export) -> Copy:
    """A new copy of the policy, with the export's own weights.

    Raises:
      UnusablePolicy: TensorFlow cannot load it, or it lacks what its spec says.
    """
    model = load_model(export.folder)
    functions = {name: FlatFunction.of_signature(model.signatures[name]) for name in ("action", "get_initial_state")}
    distributions, why_not = flat_distribution(model, export.spec)
    if distributions is not None:
        functions["distribution"] = distributions.function
    return Copy(TensorFlowEngine(model, functions, export.spec), distributions, why_not)


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


def _spec_of_plain(folder: Path, model: Any) -> PolicySpec:
    """The spec of an export that has no policy.json, from policy_specs.pbtxt and the signatures."""
    if not (folder / SPECS_FILE).is_file():
        raise UnusablePolicy(f"{folder} is no export of PolicySaver: neither {POLICY_FILE} nor {SPECS_FILE}")
    functions = {name: model.signatures[name] for name in model.signatures}
    try:
        specs = specs_from_collect_data_spec(tensor_spec.from_pbtxt_file(str(folder / SPECS_FILE)))
        policy_specs = PolicySpecs(
            specs["time_step_spec"],
            specs["policy_state_spec"],
            specs["action_spec"],
            specs["info_spec"],
            _custom_input(model, specs["time_step_spec"]),
        )
        spec = spec_of(functions, policy_specs, _batch_size(functions["action"]))
    except Exception as error:
        raise UnusablePolicy(f"{folder}: its specs cannot be read: {error}") from error
    _check_complete(folder, spec)
    return spec


def _custom_input(model: Any, time_step_spec: Any) -> Any:
    """The nest of `input_fn_and_spec`, without batch dimension; None for a policy that takes time steps."""
    functions = getattr(model.action, "concrete_functions", [])
    if not functions:
        return None
    args, kwargs = functions[0].structured_input_signature
    first = (list(args) + list(kwargs.values()))[0]
    if getattr(first, "_fields", None) == time_step_spec._fields:
        return None
    return tf.nest.map_structure(lambda s: tf.TensorSpec(s.shape[1:], s.dtype, s.name), first)


def _batch_size(action: Any) -> int | None:
    sizes = {s.shape[0] for s in tf.nest.flatten(action.structured_input_signature)}
    size = sizes.pop()
    return None if size is None else int(size)


def _check_complete(folder: Path, spec: PolicySpec) -> None:
    """Each input of the signature must have its place in the nest: no request could fill it otherwise."""
    missing = set(spec.signatures["action"].inputs) - {leaf.name for _, leaf in leaves(spec.inputs)}
    if missing:
        raise UnusablePolicy(f"{folder}: input {sorted(missing)[0]!r} of its signature is in none of its specs")
