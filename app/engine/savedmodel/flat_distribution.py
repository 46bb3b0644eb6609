"""The `distribution` function of a plain export → a concrete function with flat inputs and outputs.

The function that TF-Agents' PolicySaver exports takes nests and returns TFP distributions; engines speak flat arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from app.engine.savedmodel.engine import FlatFunction
from saver.artifact import DistributionInfo, Nest, PolicySpec, leaves
from saver.distribution_types import NotDescribable
from saver.distributions import flatten
from saver.impure_ops import impurities


@dataclass(frozen=True)
class FlatDistributions:
    """The flat function (inputs as those of `action`) and, by the name of the action leaf, what it gives."""

    function: FlatFunction
    by_action: dict[str, DistributionInfo]


def flat_distribution(model: Any, spec: PolicySpec) -> tuple[FlatDistributions | None, str]:
    """Traces the flat function; None and the reason where the policy has no distribution."""
    exported = getattr(model, "distribution", None)
    if exported is None or not getattr(exported, "concrete_functions", None):
        return None, "the export has no distribution function"
    by_action: dict[str, DistributionInfo] = {}
    args, kwargs = exported.concrete_functions[0].structured_input_signature
    wanted = list(model.signatures["action"].structured_input_signature[1].values())
    names = [s.name for s in wanted]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(s.shape, s.dtype) for s in wanted])
    def distribution(*in_order: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = dict(zip(names, in_order, strict=True))
        filled = [_filled(arg, prefix, spec, tensors) for arg, prefix in zip(args, _PREFIXES, strict=False)]
        named = {key: _filled(arg, "", spec, tensors) for key, arg in kwargs.items()}
        step = exported(*filled, **named)
        if not hasattr(step, "action"):
            raise NotDescribable("the policy has none (its distribution function only raises)")
        outputs = _flatten_actions(spec, step.action, by_action)
        for nest, values in ((spec.state, step.state), (spec.info, step.info)):
            outputs |= _named_outputs(nest, values)
        return outputs

    try:
        concrete = distribution.get_concrete_function()
    except NotDescribable as error:
        return None, str(error)
    except Exception as error:  # a policy's own code is traced here: it may raise anything
        return None, f"tracing it failed: {str(error).strip().splitlines()[-1][:200]}"
    if impurities(concrete):  # Thompson sampling, dropout: it is another one in each call
        by_action = {n: replace(info, details=info.details | {"random": True}) for n, info in by_action.items()}
    function = FlatFunction(concrete, {s.name: s.dtype for s in wanted}, by_name=False)
    return FlatDistributions(function, by_action), ""


# Where the arguments (time_step, policy_state) of an exported function stand in `PolicySpec.inputs`.
_PREFIXES = ("", "policy_state")


def _flatten_actions(spec: PolicySpec, actions: Any, by_action: dict[str, DistributionInfo]) -> Any:
    outputs: dict[str, tf.Tensor] = {}
    for name, distribution in _named_outputs(spec.action, actions).items():
        flat = flatten(distribution)
        by_action[name] = DistributionInfo(flat.family, tuple(flat.parameters), tuple(flat.statistics), flat.details)
        for key, tensor in (flat.parameters | flat.statistics).items():
            outputs[f"{name}/{key}"] = tensor
    return outputs


def _named_outputs(nest: Nest, values: Any) -> dict[str, Any]:
    """The values under their flattened names; those at paths that `nest` lacks are left out."""
    names = {path: leaf.name for path, leaf in leaves(nest)}
    return {names[path]: value for path, value in _by_path(values, "") if path in names}


def _filled(structure: Any, path: str, spec: PolicySpec, tensors: Mapping[str, tf.Tensor]) -> Any:
    """The same structure with tensors for specs, found by their path in `PolicySpec.inputs`."""
    names = {path: leaf.name for path, leaf in leaves(spec.inputs)}

    def fill(part: Any, path: str) -> Any:
        if part is None:
            return None
        children = _children(part)
        if children is None:
            return tensors[names[path]]
        filled = {key: fill(child, _join(path, key)) for key, child in children}
        if hasattr(part, "_fields"):
            return type(part)(**filled)
        return filled if isinstance(part, Mapping) else type(part)(filled.values())

    return fill(structure, path)


def _by_path(structure: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = _children(structure)
    if children is None:
        yield path, structure
        return
    for key, child in children:
        yield from _by_path(child, _join(path, key))


def _children(part: Any) -> list[tuple[Any, Any]] | None:
    """Keys and values of a container; None for a leaf."""
    if hasattr(part, "_fields"):
        return [(key, getattr(part, key)) for key in part._fields]
    if isinstance(part, Mapping):
        return list(part.items())
    if isinstance(part, list | tuple):
        return list(enumerate(part))
    return None


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)
