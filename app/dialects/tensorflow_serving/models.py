"""What TensorFlow Serving's answers say of a model: its status, its signatures, its train step and metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from app.errors import Malformed, UnknownPolicy, UnknownVersion
from app.inference.policy import Policy
from saver.artifact import Signature, TensorInfo

LATEST = "latest"
_METHOD = "tensorflow/serving/predict"
_MOST_VERSION = 2**63 - 1
# Zeros in front of it may count; Python refuses to read integers of thousands of digits.
_MOST_DIGITS = 100
# NumPy's names of dtypes → TensorFlow's.
_DTYPES = {
    "bool": "DT_BOOL",
    "string": "DT_STRING",
    "float16": "DT_HALF",
    "bfloat16": "DT_BFLOAT16",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    **{f"{sign}int{bits}": f"DT_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
# The states of versions here → those of TensorFlow Serving.
_STATES = {
    "found": "START",
    "loaded": "LOADING",
    "verified": "LOADING",
    "active": "AVAILABLE",
    "draining": "UNLOADING",
    "released": "END",
    "refused": "END",
}
_PASSING = ("loaded", "verified", "active", "draining")


def unknown_model(name: str, train_step: int | None) -> UnknownPolicy:
    """Returns the error for a predict request to a model that is not served."""
    return UnknownPolicy(f"Servable not found for request: {_request(name, train_step)}")


def not_served(name: str, train_step: int | None) -> UnknownVersion:
    """Returns the error for a predict request to a version that does not serve."""
    return UnknownVersion(f"Servable not found for request: {_request(name, train_step)}")


def _request(name: str, train_step: int | None) -> str:
    return f"Latest({name})" if train_step is None else f"Specific({name}, {train_step})"


def train_step_of(version: str, label: str) -> int | None:
    """Returns the train step that a path names; None for the latest one.

    Raises:
      Malformed: it is no integer of 64 bits, or an unknown label.
    """
    if label and label != LATEST:
        raise Malformed(f"Unrecognized servable version label: {label}; the only one is {LATEST}")
    if not version:
        return None
    if len(version) > _MOST_DIGITS or int(version) > _MOST_VERSION:
        raise Malformed(f"Failed to convert version: {version[:40]} to numeric.")
    return int(version)


def status(name: str, versions: Iterable[Mapping[str, Any]], train_step: int | None) -> dict[str, Any]:
    """Returns the status of one version, or of all that serve, are being loaded or end; the newest first.

    Args:
      name: of the model.
      versions: as the control process lists them: "train_step", "state" and "reason".
      train_step: of the version that is asked; None: all.

    Raises:
      UnknownVersion: there is no such version.
    """
    wanted = [v for v in versions if (v["state"] in _PASSING if train_step is None else v["train_step"] == train_step)]
    # A train step that was refused under one name may serve under another.
    best: dict[int, Mapping[str, Any]] = {}
    for version in sorted(wanted, key=lambda v: v["state"] != "active"):
        best.setdefault(version["train_step"], version)
    if not best:
        found = "any versions" if train_step is None else f"version {train_step}"
        raise UnknownVersion(f"Could not find {found} of model {name}")
    return {"model_version_status": [_status(best[step]) for step in sorted(best, reverse=True)]}


def _status(version: Mapping[str, Any]) -> dict[str, Any]:
    refused = version["state"] == "refused"
    return {
        "version": str(version["train_step"]),
        "state": _STATES[version["state"]],
        "status": {
            "error_code": "FAILED_PRECONDITION" if refused else "OK",
            "error_message": version.get("reason", "") if refused else "",
        },
    }


def metadata(policy: Policy, train_step: int | None) -> dict[str, Any]:
    """Returns the signatures of a policy, with the names of its tensors.

    Raises:
      UnknownVersion: another version serves.
    """
    version = policy.versions.active.version
    if train_step not in (None, version.train_step):
        raise not_served(policy.name, train_step)
    signatures = dict(policy.spec.signatures)
    values = values_of(policy, "get_metadata", train_step)
    if "get_metadata" in signatures:
        signatures["get_metadata"] = Signature({}, {name: _info(value) for name, value in values.items()})
    if "distribution" in policy.serving.signatures:
        signatures["distribution"] = policy.serving.signatures["distribution"]
    return {
        "model_spec": {"name": policy.name, "signature_name": "", "version": str(version.train_step)},
        "metadata": {
            "signature_def": {"signature_def": {name: _signature(name, one) for name, one in signatures.items()}}
        },
    }


def _signature(name: str, signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {key: _tensor(f"{name}_{key}:0", tensor) for key, tensor in signature.inputs.items()},
        "outputs": {key: _tensor(f"{name}/{key}:0", tensor) for key, tensor in signature.outputs.items()},
        "method_name": _METHOD,
    }


def _tensor(name: str, tensor: TensorInfo) -> dict[str, Any]:
    dim = [{"size": str(-1 if size is None else size), "name": ""} for size in tensor.shape]
    return {
        "dtype": _DTYPES.get(tensor.dtype, "DT_INVALID"),
        "tensor_shape": {"dim": dim, "unknown_rank": False},
        "name": name,
    }


def _info(value: Any) -> TensorInfo:
    array = np.asarray(value)
    return TensorInfo("string" if array.dtype.kind in "OSU" else array.dtype.name, array.shape)


def values_of(policy: Policy, function: str, train_step: int | None) -> dict[str, Any]:
    """Returns the outputs of `get_train_step` or `get_metadata` by name; all metadata, whatever dtypes they share.

    Raises:
      UnknownVersion: another version serves.
    """
    version = policy.versions.active.version
    if train_step not in (None, version.train_step):
        raise not_served(policy.name, train_step)
    if function == "get_metadata":
        return dict(version.metadata)
    signature = policy.spec.signatures.get(function)
    return {next(iter(signature.outputs), "int64") if signature else "int64": version.train_step}
