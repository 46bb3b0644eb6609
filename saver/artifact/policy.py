"""What a server has to know about an exported policy: its nests, its signatures, and the functions in `serving/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from saver.artifact.nests import Nest, leaves, nest_from_json, nest_to_json

SERVING_FOLDER = "serving"
LOG_PROB = "log_prob"
FUNCTIONS = ("distribution", "greedy", "sample", LOG_PROB)
NOISE_UNIFORM = "noise/uniform"
NOISE_NORMAL = "noise/normal"
T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """dtype and shape of one tensor of a signature; the shape has the batch dimension (None: any size)."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """A flattened signature: its named inputs and outputs."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclass(frozen=True)
class DistributionInfo:
    """The static part of one action leaf's distribution.

    The output of a parameter or statistic is named `<action leaf>/<its name>`. `details` is what else makes the
    family: `base` and `bijectors` of a transformed one, `components` of a mixture, and `random` where the
    parameters themselves differ from call to call (Thompson sampling, dropout).
    """

    family: str
    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Noise:
    """How many numbers `sample` takes for each row: uniform ones of (0, 1), and standard normal ones.

    They are the float32 inputs `noise/uniform` [rows, uniform] and `noise/normal` [rows, normal]; one of size 0
    does not exist.
    """

    uniform: int
    normal: int


@dataclass(frozen=True)
class ServingInfo:
    """The functions in `serving/` beside the signatures of the full export.

    `signatures`: those of `distribution`, `greedy`, `sample` and `log_prob` that the policy has; `unavailable`:
    the reason for each that it has not. `distributions`: by the flattened name of the action leaf.
    """

    signatures: dict[str, Signature]
    distributions: dict[str, DistributionInfo]
    noise: Noise
    unavailable: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {
            "signatures": {name: _signature_to_json(s) for name, s in self.signatures.items()},
            "distributions": {name: asdict(info) for name, info in self.distributions.items()},
            "noise": asdict(self.noise),
            "unavailable": self.unavailable,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServingInfo:
        """Reads what `to_json` makes; raises KeyError, TypeError or ValueError for anything else."""
        distributions = {
            name: DistributionInfo(
                info["family"], tuple(info["parameters"]), tuple(info["statistics"]), dict(info["details"])
            )
            for name, info in data["distributions"].items()
        }
        signatures = {name: _signature_from_json(s) for name, s in data["signatures"].items()}
        unavailable = {str(name): str(reason) for name, reason in data["unavailable"].items()}
        for name in FUNCTIONS:
            if (name in signatures) == (name in unavailable):
                raise ValueError(f"serving has no word of {name!r}, or two")
        noise = Noise(int(data["noise"]["uniform"]), int(data["noise"]["normal"]))
        return cls(signatures, distributions, noise, unavailable)


@dataclass(frozen=True)
class PolicySpec:
    """The nests of a policy, each leaf with its flattened name.

    `inputs` is what `action` takes: a dict of `observation`, `step_type`, `reward`, `discount` and, for a
    policy with state, `policy_state`; for an `input_fn_and_spec` export (`takes_time_step` False) the nest of
    that spec. `state` has the names of the outputs of `action`, `initial_state` those of `get_initial_state`.
    `batch_size` is None where any number of rows may be given.
    """

    inputs: Nest
    action: Nest
    state: Nest
    info: Nest
    initial_state: Nest
    batch_size: int | None
    takes_time_step: bool
    signatures: dict[str, Signature]

    def state_inputs(self, initial: Mapping[str, T]) -> dict[str, T]:
        """The outputs of `get_initial_state` under the names that `action` takes them by."""
        state: Nest = self.inputs.get("policy_state", ()) if isinstance(self.inputs, dict) else ()
        names = {path: leaf.name for path, leaf in leaves(state)}
        return {names[path]: initial[leaf.name] for path, leaf in leaves(self.initial_state) if path in names}

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON, the inverse of `from_json`."""
        nests = {name: nest_to_json(getattr(self, name)) for name in _NESTS}
        return {
            "batch_size": self.batch_size,
            "takes_time_step": self.takes_time_step,
            "specs": nests,
            "signatures": {name: _signature_to_json(s) for name, s in self.signatures.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicySpec:
        """Reads what `to_json` makes; raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            **{name: nest_from_json(data["specs"][name]) for name in _NESTS},
            batch_size=data["batch_size"],
            takes_time_step=bool(data["takes_time_step"]),
            signatures={name: _signature_from_json(s) for name, s in data["signatures"].items()},
        )


_NESTS = ("inputs", "action", "state", "info", "initial_state")


def _signature_to_json(signature: Signature) -> dict[str, Any]:
    return {
        side: {name: {"dtype": t.dtype, "shape": list(t.shape)} for name, t in tensors.items()}
        for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }


def _signature_from_json(data: Mapping[str, Any]) -> Signature:
    def side(name: str) -> dict[str, TensorInfo]:
        return {key: TensorInfo(t["dtype"], tuple(t["shape"])) for key, t in data[name].items()}

    return Signature(side("inputs"), side("outputs"))
