"""Some rows of a piece of a recording: what the policy was asked, and what it answered then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.replay.calls import Asked
from app.replay.segments import Piece
from app.wire.tensors import Array, Arrays
from saver.artifact import Nest, PolicySpec, leaves


@dataclass(frozen=True)
class Rows:
    """Rows at some places of a piece, and the inputs with which they are asked."""

    piece: Piece
    places: Array
    asked: Asked

    def __len__(self) -> int:
        return len(self.places)

    @property
    def environments(self) -> Array:
        """[rows] the number of each one's environment."""
        return self.piece.environments[self.places]

    def at(self, kept: Array) -> Rows:
        """Returns some of them."""
        return Rows(self.piece, self.places[kept], self.asked.at(kept))

    def beside(self, more: Arrays) -> Rows:
        """Returns them with more inputs."""
        return replace(self, asked=replace(self.asked, inputs=self.asked.inputs | more))

    def recorded(self, column: str) -> Array:
        """Returns a recorded column, [rows, …]."""
        return self.piece.arrays[column][self.places]

    def all_recorded(self, columns: Mapping[str, str]) -> Arrays:
        """Returns recorded columns under other names."""
        return {name: self.recorded(column) for name, column in columns.items()}


class Names:
    """Flattened names of a policy's inputs and outputs → the columns of recorded rows.

    `shifted`: of inputs that the row before has. `state`: inputs → the outputs that they come from.
    """

    def __init__(self, spec: PolicySpec) -> None:
        nests = spec.inputs
        assert isinstance(nests, dict), "policies without time steps have no sessions"
        step_type, discount = ([leaf for _, leaf in leaves(nests[name])] for name in ("step_type", "discount"))
        self.given = _columns("observation", nests["observation"]) | {leaf.name: "step_type" for leaf in step_type}
        self.shifted = _columns("reward", nests["reward"]) | {leaf.name: "discount" for leaf in discount}
        self.action, self.info = _columns("action", spec.action), _columns("policy_info", spec.info)
        taken = {path: leaf.name for path, leaf in leaves(nests.get("policy_state", ()))}
        self.state = {taken[path]: leaf.name for path, leaf in leaves(spec.state) if path in taken}


def _columns(path: str, nest: Nest) -> dict[str, str]:
    return {leaf.name: name for name, leaf in leaves(nest, path)}
