"""Rows of every kind of column → Arrow, Parquet, and back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.experience.arrow import batch_of, columns_in, schema_of, values_of
from app.experience.schema import Column
from tests.support.experience import rows_of

NUMBERS = ("bool", "int8", "int64", "uint8", "uint64", "float16", "float32", "float64", "bfloat16")
SHAPES = ((), (3,), (2, 3), (1, 1, 1), (0,), (2, 0), (None,), (None, 2), (2, None))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*NUMBERS, "string"])
def test_values_come_back_through_arrow_and_parquet(tmp_path, dtype, shape):
    columns = (Column("x", dtype, shape), Column("step", "int64"))
    schema = schema_of(columns, {})
    given = rows_of(columns, [{"step": number} for number in range(5)])
    batch = batch_of(schema, columns, given)
    pq.write_table(pa.Table.from_batches([batch]), tmp_path / "x")
    for table in (pa.Table.from_batches([batch, batch]).slice(2, 5), pq.read_table(tmp_path / "x")):
        found = values_of(columns, table)
        order = found["step"].tolist()
        np.testing.assert_array_equal(np.array(found["x"]), np.array(given["x"])[order])
        assert isinstance(found["x"], list) == (dtype == "string")
        if dtype not in ("string", "bfloat16"):
            assert found["x"].dtype == dtype


def test_the_schema_says_its_columns_and_each_shape():
    columns = (Column("x", "uint8", (4, None)), Column("y", "string"), Column("z", "bfloat16", (2,)))
    schema = schema_of(columns, {b"more": b"1"})
    assert columns_in(schema) == columns
    assert schema.field("x").metadata == {b"shape": b"[4, null]", b"dtype": b"uint8"}
    assert schema.field("z").type.list_size == 2
    assert schema.metadata[b"more"] == b"1"


def test_rows_whose_tensors_differ_in_shape_are_a_list_of_arrays():
    columns = (Column("x", "float32", (None, 2)), Column("s", "string", (None,)))
    schema = schema_of(columns, {})
    batches = [
        batch_of(schema, columns, rows_of(columns, [{}] * count, size)) for count, size in ((1, 1), (2, 3), (1, 0))
    ]
    found = values_of(columns, pa.Table.from_batches(batches))
    assert [np.shape(each) for each in found["x"]] == [(1, 2), (3, 2), (3, 2), (0, 2)]
    assert found["s"] == [["0"], ["0", "1", "2"], ["3", "4", "5"], []]
    np.testing.assert_array_equal(found["x"][2], np.arange(6, 12).reshape(3, 2))


def test_bytes_that_are_no_text_are_shown():
    columns = (Column("s", "string", (2,)),)
    table = pa.Table.from_batches([batch_of(schema_of(columns, {}), columns, {"s": [["a", b"b\xff"]]})])
    assert values_of(columns, table) == {"s": [["a", "b\\xff"]]}
