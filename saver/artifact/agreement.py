"""Does a policy.json agree with itself? What its nests name must be in the signatures that take it or give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saver.artifact.nests import Leaf, Nest, leaves
from saver.artifact.policy import (
    LOG_PROB,
    NOISE_NORMAL,
    NOISE_UNIFORM,
    Noise,
    PolicySpec,
    ServingInfo,
    Signature,
    TensorInfo,
)

_TIME_STEP = {"observation", "step_type", "reward", "discount"}
_Tensors = Mapping[str, TensorInfo]


def check_agreement(spec: PolicySpec, serving: ServingInfo | None) -> None:
    """Looks at each tensor of a manifest: at its dtype, shape and bounds, and that its signatures have it.

    Raises:
      ValueError: they do not agree, or a value is none that a tensor can have; the message names the tensor.
    """
    if spec.batch_size is not None and not _is_size(spec.batch_size, least=1):
        raise ValueError(f"batch_size is {spec.batch_size!r}, expected a positive integer or null")
    names = set(spec.inputs) if isinstance(spec.inputs, dict) else set()
    if spec.takes_time_step and not names >= _TIME_STEP:
        raise ValueError(f"takes_time_step is {spec.takes_time_step}, and inputs has {sorted(names)}")
    for name in ("action", "get_initial_state"):
        if name not in spec.signatures:
            raise ValueError(f"signatures has no {name!r}")
    action, initial = spec.signatures["action"], spec.signatures["get_initial_state"].outputs
    places = {
        "inputs": (spec.inputs, action.inputs),
        "action": (spec.action, action.outputs),
        "state": (spec.state, action.outputs),
        "info": (spec.info, action.outputs),
        "initial_state": (spec.initial_state, initial),
    }
    for place, (nest, tensors) in places.items():
        for path, leaf in leaves(nest, place):
            _check_leaf(path, leaf)
            _check_has(f"{path} is", leaf, tensors)
    _check_taken("action", action.inputs, _named(spec.inputs))
    for path, leaf in leaves(spec.inputs, "inputs"):
        _check_rows(path, leaf, spec.batch_size, action.inputs[leaf.name])
    if serving is not None:
        _check_serving(spec, serving)


def _check_rows(path: str, leaf: Leaf, rows: int | None, tensor: TensorInfo) -> None:
    expected = [rows, *leaf.shape]
    if list(tensor.shape) != expected:
        raise ValueError(f"{path} is {leaf.name!r} of shape {expected}, in the signature of {list(tensor.shape)}")


def _check_serving(spec: PolicySpec, serving: ServingInfo) -> None:
    known, actions = _named(spec.inputs), _named(spec.action)
    taken = {"sample": known | {NOISE_UNIFORM, NOISE_NORMAL}, LOG_PROB: known | actions}
    for name, signature in serving.signatures.items():
        _check_taken(f"serving's {name}", signature.inputs, taken.get(name, known))
    for name in {"greedy", "sample"} & serving.signatures.keys():
        for path, leaf in leaves(spec.action, "action"):
            _check_has(f"{path} of serving's {name} is", leaf, serving.signatures[name].outputs)
    if "distribution" in serving.signatures:
        _check_distributions(serving, actions, serving.signatures["distribution"])
    if "sample" in serving.signatures:
        _check_noise(serving.noise, serving.signatures["sample"].inputs)


def _check_noise(noise: Noise, inputs: _Tensors) -> None:
    for kind, name, size in (("uniform", NOISE_UNIFORM, noise.uniform), ("normal", NOISE_NORMAL, noise.normal)):
        taken = list(inputs[name].shape[1:]) if name in inputs else [0]
        if taken != [size]:
            raise ValueError(f"noise has {size} {kind} numbers a row, serving's sample takes {taken}")


def _check_distributions(serving: ServingInfo, actions: set[str], signature: Signature) -> None:
    if serving.distributions.keys() != actions:
        raise ValueError(f"distributions has {sorted(serving.distributions)}, expected the actions {sorted(actions)}")
    for action, info in serving.distributions.items():
        for part in (*info.parameters, *info.statistics):
            if f"{action}/{part}" not in signature.outputs:
                raise ValueError(f"distributions has {action}/{part}, which serving's distribution does not give")


def _check_leaf(path: str, leaf: Leaf) -> None:
    if not isinstance(leaf.name, str):
        raise ValueError(f"{path} has the name {leaf.name!r}")
    if not _is_dtype(leaf):
        raise ValueError(f"{path} has dtype {leaf.dtype!r}")
    if not all(size is None or _is_size(size) for size in leaf.shape):
        raise ValueError(f"{path} has shape {list(leaf.shape)}")
    for name, bound in (("minimum", leaf.minimum), ("maximum", leaf.maximum)):
        if not _bounds(bound, leaf):
            raise ValueError(f"{path} has {name} {bound!r}, expected a number, or lists that broadcast to its shape")


def _is_dtype(leaf: Leaf) -> bool:
    try:
        return isinstance(leaf.dtype, str) and leaf.storage is not None
    except TypeError:
        return False


def _bounds(bound: Any, leaf: Leaf) -> bool:
    if bound is None:
        return True
    try:
        array = np.asarray(bound)
    except ValueError:  # lists of lists of differing lengths
        return False
    trailing = zip(reversed(array.shape), reversed(leaf.shape))
    fits = array.ndim <= len(leaf.shape) and all(size in (1, of_leaf) or of_leaf is None for size, of_leaf in trailing)
    return fits and array.dtype.kind in "biuf" and not (array != array).any()


def _is_size(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_has(what: str, leaf: Leaf, tensors: _Tensors) -> None:
    if leaf.name not in tensors:
        raise ValueError(f"{what} {leaf.name!r}, which the signature does not have: it has {sorted(tensors)}")
    if (dtype := tensors[leaf.name].dtype) != leaf.dtype:
        raise ValueError(f"{what} {leaf.name!r} of dtype {leaf.dtype}, in the signature of {dtype}")


def _check_taken(what: str, tensors: _Tensors, known: set[str]) -> None:
    for name in tensors:
        if name not in known:
            raise ValueError(f"{what} takes {name!r}, which is in none of the specs")


def _named(nest: Nest) -> set[str]:
    return {leaf.name for _, leaf in leaves(nest)}
