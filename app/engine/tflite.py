"""A .tflite file → which tensors its functions read, and which they take and give by name. No TensorFlow."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema


def tensors_read(model: Path) -> list[set[int]]:
    """Lists, for each subgraph of the file, the numbers of the tensors that an operator takes, or that it gives back.

    An input that is not among them does not matter: a policy seldom reads the reward.
    """
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        root = schema.Model.GetRootAs(data)
        return [_read_in(root.Subgraphs(index)) for index in range(root.SubgraphsLength())]


@dataclass(frozen=True)
class Named:
    """The numbers of the tensors that a function takes and gives, by name; an output may have several names."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def named_in(model: Path) -> dict[str, Named]:
    """What each function of the file takes and gives, by its name."""
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        root = schema.Model.GetRootAs(data)
        found = [root.SignatureDefs(index) for index in range(root.SignatureDefsLength())]
        return {
            one.SignatureKey().decode(): Named(
                _numbers(one.Inputs(place) for place in range(one.InputsLength())),
                _numbers(one.Outputs(place) for place in range(one.OutputsLength())),
            )
            for one in found
        }


def _numbers(tensors: Iterable[schema.TensorMap]) -> dict[str, int]:
    return {tensor.Name().decode(): tensor.TensorIndex() for tensor in tensors}


def _read_in(graph: schema.SubGraph) -> set[int]:
    read = _numbers_in(graph.OutputsAsNumpy())
    for index in range(graph.OperatorsLength()):
        read |= _numbers_in(graph.Operators(index).InputsAsNumpy())
    return read


def _numbers_in(vector: Any) -> set[int]:
    """The elements of a vector: an array, or 0 where there is none."""
    return set(vector.tolist()) if isinstance(vector, np.ndarray) else set()
