"""Exports of TF-Agents' own PolicySaver: their spec and functions, from what they hold in place of our files.

Imports TFP and TF-Agents, whose types such exports refer to: without them, TensorFlow does not load them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_probability  # noqa: F401 — registers its distributions' types
import tf_agents.distributions  # noqa: F401 — registers its own
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from app.engine.savedmodel.engine import FlatFunction
from app.engine.savedmodel.flat_distribution import flat_distribution
from app.errors import UnusablePolicy
from saver.artifact import POLICY_FILE, Noise, PolicySpec, ServingInfo, leaves
from saver.specs import PolicySpecs, signature_of, spec_of

SPECS_FILE = "policy_specs.pbtxt"
_NEEDS_OURS = "the export has no serving/ folder; saver.PolicySaver writes one"


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
        policy_specs = _policy_specs(model, tensor_spec.from_pbtxt_file(str(folder / SPECS_FILE)))
        spec = spec_of(functions, policy_specs, _batch_size(functions["action"]))
    except Exception as error:
        raise UnusablePolicy(f"{folder}: its specs cannot be read: {error}") from error
    _check_complete(folder, spec)
    return spec


def _policy_specs(model: Any, loaded: Any) -> PolicySpecs:
    """What TF-Agents' `specs_from_collect_data_spec` makes of the file, which takes no Booleans with bounds."""
    specs = tf.nest.map_structure(_array_spec, loaded)
    collected = specs["collect_data_spec"]
    time_step = ts.TimeStep(collected.step_type, collected.reward, collected.discount, collected.observation)
    custom = _custom_input(model, time_step)
    return PolicySpecs(time_step, specs["policy_state_spec"], collected.action, collected.policy_info, custom)


def _array_spec(spec: Any) -> Any:
    return spec if spec.dtype == tf.bool else tensor_spec.to_array_spec(spec)


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
