"""Recorded rows as files of other libraries: Parquet, TFRecord as TF-Agents reads it, and Minari's datasets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from policy_client.fields import FIRST, LAST
from policy_client.recordings import Recording, values_in

# What a Minari dataset may be called, with its version.
_DATASET = re.compile(r"(?:[\w-]+/)*[\w:.-]+-v\d+")
# What each form needs beside this package, by the extra that has it.
EXTRAS = {"parquet": "experience", "tfrecord": "tf-agents", "minari": "experience"}


def to_parquet(recording: Recording, path: Path) -> str:
    """Writes one file with every column, in the order of the recording; returns what was done, for a person."""
    first = next(recording.tables, None)
    if first is None:
        return "there are no rows"
    rows, schema = 0, first.schema
    partial = path.with_name(f"{path.name}.partial")  # nobody is to take for whole what is not
    try:
        with pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
            for table in chain([first], recording.tables):
                writer.write_table(table.cast(schema) if table.schema != schema else table)
                rows += table.num_rows
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return f"{rows} rows in {path}"


def to_tfrecord(recording: Recording, path: Path) -> str:
    """Writes what TF-Agents' `example_encoding_dataset.load_tfrecord_dataset` reads; returns what was done.

    The rows of each environment follow each other. The spec lies beside it, in `{path}.spec`.
    """
    from tf_agents.specs import tensor_spec
    from tf_agents.utils import example_encoding_dataset

    from policy_client.dataset import leaves_of, packed, row_specs

    rows = _Sorted(recording)
    if not rows.count:
        return "there are no rows"
    specs = row_specs(recording.specs)
    columns = {name: np.asarray(rows.column(name)).astype(spec.dtype) for name, spec in leaves_of(specs)}
    observer = example_encoding_dataset.TFRecordObserver(
        str(path.absolute()), tensor_spec.from_spec(specs), py_mode=True
    )
    try:
        for row in range(rows.count):
            observer(packed(specs, {name: array[row] for name, array in columns.items()}, ""))
    finally:
        observer.close()
    return f"{rows.count} rows in {path} and {path}.spec"


def to_minari(recording: Recording, name: str) -> str:
    """Makes the Minari dataset `name` of the episodes that are whole; returns what was done.

    The observation behind the last action of an episode is recorded where the session went on after it. Where it did
    not, the last one stands there twice, and the count says for how many.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    if not _DATASET.fullmatch(name):
        raise ValueError(f"the dataset's name is {name!r}, expected one with a version, like cartpole/served-v0")
    rows = _Sorted(recording)
    observation, action = recording.specs["inputs"]["dict"]["observation"], recording.specs["action"]
    spaces = _space(observation, "observation"), _space(action, "action")
    buffers: list[Any] = []
    repeated = 0
    for start, end in rows.episodes():
        following = rows.follows(end - 1)
        repeated += not following
        seen = [*range(start, end), end if following else end - 1]
        ended = rows.column("discount")[end - 1]
        over = np.arange(start, end) == end - 1
        buffers.append(
            EpisodeBuffer(
                id=len(buffers),
                observations=rows.nest(observation, "observation", seen),
                actions=rows.nest(action, "action", list(range(start, end))),
                rewards=rows.column("reward")[start:end].tolist(),
                terminations=(over & (ended == 0)).tolist(),
                truncations=(over & (ended != 0)).tolist(),
                infos={},
            )
        )
    if not buffers:
        return "there are no whole episodes"
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=spaces[0],
        action_space=spaces[1],
        algorithm_name="policy-server",
        description="Episodes that were played through a policy server.",
    )
    note = f"; of {repeated} the last observation was not recorded, and stands there twice" if repeated else ""
    return f"{len(buffers)} episodes in the dataset {name}{note}"


class _Sorted:
    """All rows, those of each environment one behind the other."""

    def __init__(self, recording: Recording) -> None:
        tables = list(recording.tables)
        self._table = pa.concat_tables(tables) if tables else None
        self.count = self._table.num_rows if self._table is not None else 0
        self._columns: dict[str, Any] = {}
        if self._table is not None:
            keys = [(name, "ascending") for name in ("session", "incarnation", "row", "step")]
            self._table = self._table.sort_by(keys)
            environment = [np.array(self.column(name)) for name in ("session", "incarnation", "row")]
            changes = np.zeros(self.count, bool)
            for values in environment:
                changes[1:] |= values[1:] != values[:-1]
            self._environment = np.cumsum(changes)

    def column(self, name: str) -> Any:
        """Of all rows."""
        if name not in self._columns:
            assert self._table is not None
            self._columns[name] = values_in(self._table, name)
        return self._columns[name]

    def follows(self, row: int) -> bool:
        """Whether the next row is the next step of the same environment."""
        steps = self.column("step")
        return row + 1 < self.count and (
            self._environment[row + 1] == self._environment[row] and steps[row + 1] == steps[row] + 1
        )

    def episodes(self) -> Iterator[tuple[int, int]]:
        """Yields where each whole episode begins, and where it has ended."""
        if not self.count:
            return
        start: int | None = None
        kinds, following = self.column("step_type"), self.column("next_step_type")
        for row in range(self.count):
            if kinds[row] == FIRST:
                start = row
            if start is not None and following[row] == LAST:
                yield start, row + 1
                start = None
            elif start is not None and not self.follows(row):
                start = None

    def nest(self, spec: Mapping[str, Any], path: str, places: list[int]) -> Any:
        """The values of a nest at some rows: a dict, a tuple, or an array [rows, …]."""
        if "dict" in spec:
            return {key: self.nest(child, f"{path}/{key}", places) for key, child in spec["dict"].items()}
        if "list" in spec:
            return tuple(self.nest(child, f"{path}/{number}", places) for number, child in enumerate(spec["list"]))
        values = np.asarray(self.column(path))[places]
        return values.astype(_stored(spec["dtype"]))


def _stored(dtype: str) -> np.dtype[Any]:
    """How numbers of a dtype lie in a dataset: NumPy itself has no bfloat16."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def _space(spec: Mapping[str, Any], path: str) -> Any:
    """The Gymnasium space of a nest; raises ValueError for a leaf that has none."""
    from gymnasium import spaces

    if "dict" in spec:
        return spaces.Dict({key: _space(child, f"{path}/{key}") for key, child in spec["dict"].items()})
    if "list" in spec:
        return spaces.Tuple([_space(child, f"{path}/{number}") for number, child in enumerate(spec["list"])])
    if spec["dtype"] == "string" or None in spec["shape"]:
        what = "text" if spec["dtype"] == "string" else f"rows of differing shapes {spec['shape']}"
        raise ValueError(f"{path} has {what}, which Minari's datasets do not take: export it as parquet")
    dtype, shape = _stored(spec["dtype"]), tuple(spec["shape"])
    low, high = spec.get("minimum"), spec.get("maximum")
    if not shape and dtype.kind in "iu" and low == 0 and isinstance(high, int):
        return spaces.Discrete(high + 1)
    if dtype.kind == "b":
        return spaces.MultiBinary(shape or 1)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    lowest = limits.min if limits is not None else -np.inf
    highest = limits.max if limits is not None else np.inf
    bounds = [
        np.broadcast_to(np.asarray(default if bound is None else bound, np.float64 if limits is None else dtype), shape)
        for bound, default in ((low, lowest), (high, highest))
    ]
    return spaces.Box(bounds[0].astype(dtype), bounds[1].astype(dtype), shape, dtype.type)
