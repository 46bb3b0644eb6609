"""A .tflite file → which of their tensors its functions read. No TensorFlow."""

from __future__ import annotations

import mmap
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema


def tensors_read(model: Path) -> list[set[int]]:
    """Lists, for each subgraph of the file, the numbers of the tensors that an operator takes, or that it gives back.

    An input that is not among them does not matter: a policy seldom reads the reward.
    """
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        root = schema.Model.GetRootAs(data)
        return [_read_in(root.Subgraphs(index)) for index in range(root.SubgraphsLength())]


def _read_in(graph: schema.SubGraph) -> set[int]:
    read = {graph.Outputs(index) for index in range(graph.OutputsLength())}
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        read |= {operator.Inputs(place) for place in range(operator.InputsLength())}
    return read
