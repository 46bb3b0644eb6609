"""Exports of TF-Agents' own PolicySaver: their spec and functions, from what they hold in place of our files.

Imports TFP, whose types such exports refer to, and has the types of TF-Agents that they refer to registered: without
them, TensorFlow does not load such an export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability  # noqa: F401 — registers its distributions' types
from google.protobuf import text_format
from tensorflow.core.protobuf import struct_pb2
from tensorflow.python.framework import tensor as tf_spec
from tensorflow.python.saved_model import nested_structure_coder

from app.engine.savedmodel import tf_agents_types
from app.engine.savedmodel.engine import FlatFunction
from app.engine.savedmodel.flat_distribution import flat_distribution
from app.errors import UnusablePolicy
from saver.artifact import POLICY_FILE, Noise, PolicySpec, ServingInfo, leaves
from saver.specs import PolicySpecs, signature_of, spec_of

SPECS_FILE = "policy_specs.pbtxt"
_TIME_STEP = ("step_type", "reward", "discount", "observation")  # in TF-Agents' order
_NEEDS_OURS = "the export has no serving/ folder; saver.PolicySaver writes one"

tf_agents_types.register()


def flat_functions(model: Any, spec: PolicySpec) -> tuple[dict[str, FlatFunction], ServingInfo]:
    """What can be made of a plain export: its flat distribution, where there is one."""
    distributions, why_not = flat_distribution(model, spec)
    unavailable = dict.fromkeys(("greedy", "sample", "log_prob"), _NEEDS_OURS)
    if distributions is None:
        return {}, ServingInfo({}, {}, Noise(0, 0), unavailable | {"distribution": why_not})
    signature = signature_of(distributions.function.concrete)
    info = ServingInfo({"distribution": signature}, distributions.by_action, Noise(0, 0), unavailable)
    return {"distribution": distributions.function}, info


def spec_of_export(folder: Path, model: Any) -> PolicySpec:
    """The spec of an export that has no policy.json, from policy_specs.pbtxt and the signatures.

    Raises:
      UnusablePolicy: it has no specs either, or they do not fit the signatures.
    """
    if not (folder / SPECS_FILE).is_file():
        raise UnusablePolicy(f"{folder} is no export of PolicySaver: neither {POLICY_FILE} nor {SPECS_FILE}")
    functions = {name: model.signatures[name] for name in model.signatures}
    try:
        policy_specs = _policy_specs(model, read_specs(folder / SPECS_FILE))
        spec = spec_of(functions, policy_specs, _batch_size(functions["action"]))
    except Exception as error:
        raise UnusablePolicy(f"{folder}: its specs cannot be read: {error}") from error
    _check_complete(folder, spec)
    return spec


def read_specs(path: Path) -> Any:
    """The nest of TensorSpecs in a policy_specs.pbtxt: a StructuredValue, as in a SavedModel's own function specs.

    Raises:
      ValueError: a minimum is above its maximum.
    """
    value = struct_pb2.StructuredValue()
    text_format.Parse(path.read_bytes(), value)
    return tf.nest.map_structure(_finite, nested_structure_coder.decode_proto(value))


def _finite(spec: Any) -> Any:
    """The spec with the ends of its dtype for infinite bounds, as TF-Agents' array specs have it."""
    if getattr(spec, "minimum", None) is None or spec.dtype == tf.bool:
        return spec
    if np.any(spec.minimum > spec.maximum):
        raise ValueError(f"{spec.name}: its minimum {spec.minimum} is above its maximum {spec.maximum}")
    if not spec.dtype.is_floating:
        return spec
    bounds = (np.clip(bound, spec.dtype.min, spec.dtype.max) for bound in (spec.minimum, spec.maximum))
    return tf_spec.BoundedTensorSpec(spec.shape, spec.dtype, *bounds, spec.name)


def _policy_specs(model: Any, specs: Any) -> PolicySpecs:
    collected = specs["collect_data_spec"]
    time_step = {field: getattr(collected, field) for field in _TIME_STEP}
    custom = _custom_input(model)
    return PolicySpecs(time_step, specs["policy_state_spec"], collected.action, collected.policy_info, custom)


def _custom_input(model: Any) -> Any:
    """The nest of `input_fn_and_spec`, without batch dimension; None for a policy that takes time steps."""
    functions = getattr(model.action, "concrete_functions", [])
    if not functions:
        return None
    args, kwargs = functions[0].structured_input_signature
    first = (list(args) + list(kwargs.values()))[0]
    if getattr(first, "_fields", None) == _TIME_STEP:
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
