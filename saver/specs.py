"""TF-Agents' specs and TensorFlow's signatures in, a `PolicySpec` (plain data) out.

Used when a policy is saved, and by the server for exports that came without policy.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from saver.artifact.nests import Leaf, Nest, bound_of
from saver.artifact.policy import PolicySpec, Signature, TensorInfo


@dataclass(frozen=True)
class PolicySpecs:
    """The specs of a policy, without batch dimension: nests of (bounded) TensorSpec.

    `custom_input` is the spec of `input_fn_and_spec`, None for a policy that takes time steps.
    """

    time_step: Any
    policy_state: Any
    action: Any
    info: Any
    custom_input: Any = None


def concrete(function: Any) -> Any:
    """The function with its inputs known: what a signature is, or what a `tf.function` becomes for its own spec."""
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return function
    return function.get_concrete_function()


def spec_of(functions: Mapping[str, Any], specs: PolicySpecs, batch_size: int | None) -> PolicySpec:
    """Joins the specs of a policy with the flattened names of its signatures.

    Args:
      functions: the ConcreteFunction of each signature.
      specs: structure, dtypes, shapes and bounds.
      batch_size: the fixed number of rows, None if any.

    Raises:
      ValueError: a tensor of the specs is in no signature under a name that PolicySaver gives.
    """
    signatures = {name: signature_of(function) for name, function in functions.items()}
    outputs = signatures["action"].outputs
    return PolicySpec(
        inputs=_inputs(specs, signatures["action"].inputs),
        action=_named(specs.action, outputs, "action"),
        state=_named(specs.policy_state, outputs, "state"),
        info=_named(specs.info, outputs, "info"),
        initial_state=_named(specs.policy_state, signatures["get_initial_state"].outputs, ""),
        batch_size=batch_size,
        takes_time_step=specs.custom_input is None,
        signatures=signatures,
    )


def _inputs(specs: PolicySpecs, known: Mapping[str, TensorInfo]) -> Nest:
    if specs.custom_input is not None:
        return _named(specs.custom_input, known, "0")
    nest = _named(specs.time_step, known, "0")
    state = _named(specs.policy_state, known, "1")
    assert isinstance(nest, dict)
    return {**nest, "policy_state": state} if state != () else nest


def _named(spec: Any, known: Mapping[str, TensorInfo], prefix: str) -> Nest:
    """The nest of `spec` with the names that the signature's tensors (`known`) have.

    A name is the nest path below `prefix`, or the spec's own where the export was made without nest paths.
    """

    def name_of(path: str, leaf: Any) -> str:
        if path in known:
            return path
        if leaf.name in known:
            return str(leaf.name)
        if len(known) == 1:
            return next(iter(known))
        raise ValueError(f"no tensor {path!r} or {leaf.name!r} in the signature, it has {sorted(known)}")

    return _nest(spec, prefix, name_of)


def _nest(spec: Any, path: str, name_of: Callable[[str, Any], str]) -> Nest:
    def child(key: Any, value: Any) -> Nest:
        return _nest(value, f"{path}/{key}" if path else str(key), name_of)

    if spec is None:
        return ()
    if hasattr(spec, "_fields"):
        return {key: child(key, getattr(spec, key)) for key in spec._fields}
    if isinstance(spec, Mapping):
        return {key: child(key, value) for key, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return tuple(child(index, value) for index, value in enumerate(spec))
    minimum, maximum = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    return Leaf(
        name_of(path, spec),
        tf.as_dtype(spec.dtype).name,
        tuple(tf.TensorShape(spec.shape).as_list()),
        None if minimum is None else bound_of(minimum, -math.inf),
        None if maximum is None else bound_of(maximum, math.inf),
    )


def signature_of(function: Any) -> Signature:
    """The named inputs and outputs of a concrete function."""
    inputs = {s.name: _info(s) for s in tf.nest.flatten(function.structured_input_signature)}
    outputs = {str(name): _info(s) for name, s in function.structured_outputs.items()}
    return Signature(inputs, outputs)


def _info(spec: Any) -> TensorInfo:
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return TensorInfo(spec.dtype.name, shape if shape is not None else (None,))
