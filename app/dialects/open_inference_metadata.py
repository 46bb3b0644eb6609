"""What the Open Inference Protocol says of models: their metadata, configuration, statistics and versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from app.dialects.open_inference import PLATFORM, Model, Tensor
from app.errors import UnknownVersion
from app.inference.policy import Policy
from app.versions.lease import LoadedVersion

# As many versions are compared with the one that is asked for.
_MOST_VERSIONS = 1000
# Triton's names of datatypes in a configuration.
_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}
# The name of a row of the metrics → its samples: labels, what follows the name, value.
Samples = Callable[[str], Sequence[tuple[dict[str, str], str, float]]]


async def loaded_of(policy: Policy, version: str) -> LoadedVersion[Any]:
    """Returns the version that serves, where that is the one of this name, or the only one of this train step.

    Raises:
      UnknownVersion: another one is asked for; or the train step is that of several.
    """
    active = policy.versions.active
    here = active.version
    if version == here.name:
        return active
    text = f"policy {policy.name} serves version {here.name} (train step {here.train_step})"
    if version != str(here.train_step):
        raise UnknownVersion(f"{text}, not {version[:200]!r}")
    rows = (await policy.manager.status(_MOST_VERSIONS))["versions"]
    others = [
        row["version"]
        for row in rows
        if row["digest"] != here.digest and (row["train_step"] == here.train_step or row["version"] == version)
    ]
    if others:
        raise UnknownVersion(f"{text}; {version} may also mean {', '.join(others[:5])}: ask by name")
    return active


def metadata_of(model: Model) -> dict[str, Any]:
    """Returns a model's metadata."""
    return {
        "name": model.name,
        "versions": [model.policy.versions.active.version.name],
        "platform": PLATFORM,
        "inputs": [_tensor(tensor) for tensor in model.inputs],
        "outputs": [_tensor(tensor) for tensor in model.outputs],
    }


def config_of(model: Model) -> dict[str, Any]:
    """Returns a model's configuration, as Triton's clients read it.

    A batch is a dimension of the tensors, and not one that Triton adds, which would leave none to single numbers.
    """
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "policy_server",
        "max_batch_size": 0,
        "input": [{**_dims(each), "optional": each.optional} for each in model.inputs],
        "output": [_dims(each) for each in model.outputs],
        **({"sequence_batching": {"max_sequence_idle_microseconds": 0}} if model.has_sequences else {}),
    }


def statistics_of(models: Iterable[Model], samples: Samples) -> dict[str, Any]:
    """Returns the statistics of models: counts of their requests in this protocol, and of their policies' batches."""
    answers, seconds, batches = samples("answers"), samples("answer_seconds"), samples("batch_rows")
    return {"model_stats": [_statistics(model, answers, seconds, batches) for model in models]}


def index_of(policies: Iterable[Mapping[str, Any]], only_ready: bool) -> list[dict[str, str]]:
    """Returns the index of the repository. `policies`: as `Service.describe_all` lists them."""
    return [
        {
            "name": policy["name"],
            "version": policy["version"],
            "state": "READY" if policy["ready"] else "UNAVAILABLE",
            "reason": policy.get("reason", ""),
        }
        for policy in policies
        if policy["ready"] or not only_ready
    ]


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _dims(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": _config_type(tensor.datatype), "dims": list(tensor.shape)}


def _config_type(datatype: str) -> str:
    return _CONFIG_TYPES.get(datatype, f"TYPE_{datatype}")


def _statistics(model: Model, answers: Any, seconds: Any, batches: Any) -> dict[str, Any]:
    counted = [(labels["status"], value) for labels, end, value in answers if end == "_total" and _is_of(model, labels)]
    every, good = sum(value for _, value in counted), sum(value for status, value in counted if status == "200")
    spent = sum(value for labels, end, value in seconds if end == "_sum" and _is_of(model, labels))
    mine = [(end, value) for labels, end, value in batches if labels.get("policy") == model.policy.name]
    runs, rows = (sum(value for found, value in mine if found == end) for end in ("_count", "_sum"))
    success = round(spent * 1e9 * (good / every if every else 0))
    nothing = {"count": 0, "ns": 0}
    ran = {"count": int(runs), "ns": 0}
    return {
        "name": model.name,
        # Triton's own tools read a number here.
        "version": str(model.policy.versions.active.version.train_step),
        "last_inference": 0,
        "inference_count": int(rows),
        "execution_count": int(runs),
        "inference_stats": {
            "success": {"count": int(good), "ns": success},
            "fail": {"count": int(every - good), "ns": round(spent * 1e9) - success},
            **dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), ran),
            **dict.fromkeys(("cache_hit", "cache_miss"), nothing),
        },
        "batch_stats": [],
    }


def _is_of(model: Model, labels: Mapping[str, str]) -> bool:
    """Returns whether a count is of a model's requests, over HTTP or gRPC."""
    routes = (f"v2/{model.function}", f"grpc/{model.function}")
    return labels["policy"] == model.policy.name and labels["route"] in routes
