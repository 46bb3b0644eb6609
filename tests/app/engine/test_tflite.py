"""Of a model's tensors those are read that an operator takes, or that a function gives back."""

from pathlib import Path

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from app.engine.tflite import tensors_read


def write(path: Path, *graphs: tuple[list[int], list[tuple[list[int], list[int]]]]) -> Path:
    """A model of subgraphs: its outputs, and the inputs and outputs of each operator."""
    model = schema.ModelT()
    model.version = 3
    model.subgraphs = []
    for outputs, operators in graphs:
        graph = schema.SubGraphT()
        graph.inputs, graph.outputs, graph.operators = [0, 1, 2], outputs, []
        for takes, gives in operators:
            operator = schema.OperatorT()
            operator.inputs, operator.outputs = takes, gives
            graph.operators.append(operator)
        model.subgraphs.append(graph)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_an_input_that_no_operator_takes_is_not_read(tmp_path: Path) -> None:
    model = write(tmp_path / "model", ([4], [([0, 3], [5]), ([5, 2], [4])]))
    assert tensors_read(model) == [{0, 2, 3, 4, 5}]


def test_an_input_that_is_given_back_as_it_came_is_read(tmp_path: Path) -> None:
    assert tensors_read(write(tmp_path / "model", ([1], []))) == [{1}]


def test_each_function_has_its_own(tmp_path: Path) -> None:
    model = write(tmp_path / "model", ([3], [([0], [3])]), ([4], [([1], [4])]))
    assert tensors_read(model) == [{0, 3}, {1, 4}]


def test_the_file_may_be_deleted_afterwards_and_stays_as_it_was(tmp_path: Path) -> None:
    model = write(tmp_path / "model", ([3], [([0], [3])]))
    before = model.read_bytes()
    tensors_read(model)
    assert model.read_bytes() == before
    model.unlink()
