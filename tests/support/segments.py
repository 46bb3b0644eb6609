"""Segments of experience as a server writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.experience.arrow import SPEC, batch_of, schema_of
from app.experience.schema import columns_of
from saver.artifact import PolicySpec


def write(folder: Path, spec: PolicySpec, rows: dict[str, list[Any]], first: int = 0, still_open: bool = False) -> Path:
    """Writes a segment, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = columns_of(spec)
    schema = schema_of(columns, {SPEC: json.dumps(spec.to_json()).encode()})
    arrays = {
        column.name: rows[column.name] if column.dtype == "string" else np.array(rows[column.name])
        for column in columns
    }
    batch = batch_of(schema, columns, arrays)
    if still_open:
        path = folder / f"{first:016d}.arrows"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            writer.write_batch(batch)
    else:
        path = folder / f"{first:016d}.parquet"
        pq.write_table(pa.Table.from_batches([batch]), path)
    return path
