"""A folder of segments, which a server may go on writing, and what a server answers, as tables."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from app.experience.limits import RowLogLimits
from app.experience.pages import encode, read_page
from app.experience.query import Query
from app.experience.row_log import RowLog
from app.experience.schema import columns_of
from policy_client import recordings
from policy_client.answers import ExperienceBatch, read_experience
from policy_client.exports import to_parquet
from policy_client.recordings import Recording, of_folder, of_server, values_in
from saver.artifact import Leaf
from tests.support.experience import Simulator, rows_of
from tests.support.specs import policy_spec

SPEC = policy_spec(
    {"camera": Leaf("1", "float32", (None, 2)), "words": Leaf("2", "string", (2,)), "speed": Leaf("3", "float32", ())}
)
CAMERA, WORDS = "observation/camera", "observation/words"


class Server:
    """What a server writes, and answers to those who read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = RowLog(folder, columns_of(SPEC), RowLogLimits(10**9, 3000, 1e9), SPEC.to_json())
        self.policy = SimpleNamespace(describe=SPEC.to_json)
        self._simulator = Simulator()
        self._at = 0

    def record(self, rows: int, size: int = 3) -> None:
        """`size`: of the dimension that the spec leaves open."""
        self.log.append(rows_of(self.log.columns, [self._simulator.next() for _ in range(rows)], size), {})

    def close_segments(self) -> None:
        while self.log.close_next():
            pass

    def read(self, wait_ms: int) -> ExperienceBatch:
        """See `Experience`; a row at a time."""
        page = read_page(self.log, Query(max_rows=1), self._at)
        self._at = page.next
        return read_experience(encode(page, "", as_msgpack=True))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It has a closed segment, and an open one."""
    server = Server(tmp_path / "segments")
    server.record(40)
    server.record(1)
    server.close_segments()
    assert sorted(path.suffix for path in server.folder.glob("0*")) == [".arrows", ".parquet"]
    yield server
    server.log.close()


def steps_in(recording: Recording) -> list[int]:
    return [step for table in recording.tables for step in table.column("step").to_pylist()]


def test_a_segment_that_is_closed_while_others_are_read_is_read(server: Server) -> None:
    recording = of_folder(server.folder)
    first = next(recording.tables)
    server.record(39)
    server.record(1)
    server.close_segments()
    assert not (server.folder / f"{40:016d}.arrows").exists()
    assert [*first.column("step").to_pylist(), *steps_in(recording)] == list(range(1, 42))


def test_a_segment_that_is_closed_while_the_folder_is_listed_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.record(39)
    server.record(1)
    listed, looks = Path.glob, []

    def glob(self: Path, pattern: str) -> Any:
        found = list(listed(self, pattern))
        looks.append(pattern)
        server.close_segments()
        return found

    monkeypatch.setattr(Path, "glob", glob)
    assert steps_in(of_folder(server.folder)) == list(range(1, 82))
    assert sorted(looks) == ["*.arrows", "*.parquet"]


def test_a_segment_that_is_closed_between_two_looks_for_its_file_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.record(39)
    server.record(1)
    open_closed = pyarrow.parquet.ParquetFile

    def open_file(path: Path) -> Any:
        try:
            return open_closed(path)
        finally:
            server.close_segments()

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", open_file)
    assert steps_in(of_folder(server.folder)) == list(range(1, 82))


def test_a_segment_that_is_removed_as_the_oldest_is_left_out(server: Server) -> None:
    recording = of_folder(server.folder)
    server.log.remove_oldest()
    assert steps_in(recording) == [41]


def test_what_was_exported_into_the_folder_is_no_segment(server: Server) -> None:
    said = to_parquet(of_folder(server.folder), server.folder / "out.parquet")
    assert said.startswith("41 rows")
    assert len(steps_in(of_folder(server.folder))) == 41


def test_a_file_is_there_whole_or_as_it_was(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"

    def broken() -> Iterator[pa.Table]:
        yield next(of_folder(server.folder).tables)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        to_parquet(Recording({}, broken()), path)
    assert list(tmp_path.glob("out*")) == []
    to_parquet(of_folder(server.folder), path)
    with pytest.raises(OSError, match="no more"):
        to_parquet(Recording({}, broken()), path)
    assert list(tmp_path.glob("out*")) == [path]
    assert pyarrow.parquet.read_metadata(path).num_rows == 41


@pytest.mark.parametrize("sizes", [(3, 3), (3, 5, 0, 4)])
@pytest.mark.parametrize("source", ["server", "folder"])
def test_values_have_their_shapes_also_where_the_spec_leaves_them_open(
    tmp_path: Path, source: str, sizes: tuple[int, ...]
) -> None:
    server = Server(tmp_path / "segments")
    expected, words = [], []
    for size in sizes:
        server.record(1, size)
        expected.append(np.arange(2.0 * size).reshape(size, 2).tolist())
        words.append(["0", "1"])
    recording = of_server(server) if source == "server" else of_folder(server.folder)  # type: ignore[arg-type]
    path = tmp_path / "out.parquet"
    assert to_parquet(recording, path) == f"{len(sizes)} rows in {path}"
    table = pyarrow.parquet.read_table(path)
    found = values_in(table, CAMERA)
    assert [value.tolist() for value in found] == expected
    assert isinstance(found, np.ndarray) == (len(set(sizes)) == 1)
    assert values_in(table, WORDS) == words
    assert values_in(table, "step").tolist() == list(range(1, len(sizes) + 1))
    server.log.close()


def test_batches_of_other_shapes_make_a_table_each_of_the_same_schema(server: Server) -> None:
    shapes = {CAMERA: [None, 2]}
    columns = [{CAMERA: np.zeros((4, size, 2), np.float32)} for size in (1, 2)]
    columns.append({CAMERA: [np.zeros((1, 2), np.float32), np.zeros((3, 2), np.float32)]})
    one, *others = (recordings.table_of(each, shapes).schema for each in columns)
    assert all(other == one for other in others)
