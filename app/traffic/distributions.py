"""The distribution of recorded actions: its parameters as a policy's info has recorded them, or as computed now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from app.traffic.divergence import divergence, needed
from app.wire.tensors import Array, Arrays
from saver.artifact import PolicySpec, ServingInfo, leaves

# What TF-Agents' PPO calls a parameter.
_ALSO = {"scale_diag": "scale"}


class Distributions:
    """The distributions of one policy's actions that can be compared.

    `reason`: why none can; "" where one can. `recorded`: for the parameters that the policy's info has, the columns
    that hold them; none where it has not all.
    """

    def __init__(self, spec: PolicySpec, serving: ServingInfo) -> None:
        self._infos = {}
        self.reason = serving.unavailable.get("distribution", "")
        for path, leaf in leaves(spec.action, "action"):
            info = serving.distributions.get(leaf.name)
            if info is None or self.reason:
                self.reason = self.reason or f"{path} has none"
            elif info.details.get("random"):
                self.reason = f"that of {path} differs from call to call"
            elif not needed(info):
                self.reason = f"that of {path} is of the family {info.family}, without a closed form"
            else:
                self._infos[leaf.name] = info
        self.recorded = {} if self.reason else self._in_info(spec)

    def _in_info(self, spec: PolicySpec) -> dict[str, str]:
        """Output of `distribution` → column; as TF-Agents' PPO policies have them: …/loc, …/scale_diag, …/logits."""
        if len(self._infos) != 1:
            return {}
        ((name, info),) = self._infos.items()
        paths = {path.rpartition("/")[2]: path for path, _ in leaves(spec.info, "policy_info") if "/" in path}
        found = {wanted: paths.get(wanted) or paths.get(_ALSO.get(wanted, "")) for wanted in needed(info)}
        whole = {f"{name}/{wanted}": path for wanted, path in found.items() if path}
        return whole if len(whole) == len(found) else {}

    def apart(self, first: Arrays, second: Arrays) -> Array:
        """Returns the divergence of each row, summed over the leaves of the action: [rows] float64.

        `first`, `second`: outputs of `distribution`, [rows, …].
        """
        sides = [{name: _of(name, side) for name in self._infos} for side in (first, second)]
        found = [divergence(info, sides[0][name], sides[1][name]) for name, info in self._infos.items()]
        return np.asarray(np.sum([part for part in found if part is not None], axis=0))


def _of(leaf: str, outputs: Mapping[str, Array]) -> Arrays:
    """The parameters of one leaf's distribution, by their own names."""
    prefix = f"{leaf}/"
    return {name.removeprefix(prefix): array for name, array in outputs.items() if name.startswith(prefix)}
