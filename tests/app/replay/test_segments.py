import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import UnusablePolicy
from app.experience.schema import columns_of
from app.replay.segments import Recording
from saver.artifact import Leaf, PolicySpec
from tests.support.segments import write


def spec(shape: tuple[int | None, ...] = (2,)) -> PolicySpec:
    inputs = {
        "observation": {"sight": Leaf("sight", "float32", shape), "words": Leaf("words", "string", (2,))},
        "step_type": Leaf("step_type", "int32", ()),
        "reward": Leaf("reward", "float32", ()),
        "discount": Leaf("discount", "float32", ()),
    }
    return PolicySpec(inputs, Leaf("action", "int64", ()), (), (), (), None, True, {})


def rows(count: int, sessions: int = 2, **more: list) -> dict[str, list]:
    made = {
        column.name: [""] * count if column.dtype == "string" else np.zeros((count, *column.shape), column.dtype)
        for column in columns_of(spec())
    }
    return (
        made
        | {
            "observation/sight": np.arange(2 * count, dtype=np.float32).reshape(count, 2),
            "observation/words": [["a", str(number)] for number in range(count)],
            "session": [f"s{number % sessions}" for number in range(count)],
            "step": np.arange(count) // sessions,
            "version": ["7"] * (count - 1) + ["8"],
        }
        | more
    )


def test_rows_come_back_as_they_were_recorded_whatever_lies_beside_them(tmp_path):
    write(tmp_path, spec(), rows(5))
    write(tmp_path, spec(), rows(4, incarnation=["later"] * 4), first=5, still_open=True)
    write(tmp_path, spec(), rows(2), first=9)
    write(tmp_path, spec(), rows(1), first=9, still_open=True)  # the segment that 9 was closed from
    (tmp_path / "0000000000000011.arrows.partial").write_bytes(b"x")
    (tmp_path / "journals").mkdir()
    recording = Recording(tmp_path, spec())
    pieces = list(recording.pieces())
    assert (recording.rows, [piece.rows for piece in pieces]) == (11, [5, 4, 2])
    first, second, third = pieces
    assert first.arrays["observation/sight"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert first.arrays["observation/words"].tolist()[3] == ["a", "3"]
    assert [first.version_names[version] for version in first.versions] == ["7"] * 4 + ["8"]
    assert first.environments.tolist() == [0, 1, 0, 1, 0]
    assert second.environments.tolist() == [2, 3, 2, 3]  # the same sessions, started again
    assert third.environments.tolist() == third.starts.tolist() == [0, 1]
    assert recording.environments == 4


def test_what_a_writer_is_just_writing_comes_another_time(tmp_path):
    path = write(tmp_path, spec(), rows(3), still_open=True)
    whole = path.read_bytes()
    with pa.OSFile(str(path), "ab") as file:
        file.write(whole[len(whole) // 2 :][:50])
    assert Recording(tmp_path, spec()).rows == 3


def test_tensors_of_a_size_of_their_own_come_in_pieces_of_one_size(tmp_path):
    sizes = spec((None,))
    sight = np.arange(6, dtype=np.float32).reshape(3, 2)
    write(tmp_path, sizes, rows(3, **{"observation/sight": sight}))
    write(tmp_path, sizes, rows(2, **{"observation/sight": np.ones((2, 4), np.float32)}), first=3)
    shapes = [piece.arrays["observation/sight"].shape for piece in Recording(tmp_path, sizes).pieces()]
    assert shapes == [(3, 2), (2, 4)]


def test_a_damaged_segment_is_named(tmp_path):
    path = write(tmp_path, spec(), rows(300))
    data = bytearray(path.read_bytes())
    data[8:200] = b"\xff" * 192
    path.write_bytes(data)
    with pytest.raises(UnusablePolicy, match=rf"{path} is damaged: "):
        list(Recording(tmp_path, spec()).pieces())
    path.write_bytes(data[:100])
    with pytest.raises(UnusablePolicy, match=r"0\.parquet is damaged: "):
        Recording(tmp_path, spec())


def test_rows_of_another_policy_are_refused(tmp_path):
    write(tmp_path, spec((3,)), rows(2, **{"observation/sight": np.ones((2, 3), np.float32)}))
    expected = r"was recorded of another policy: observation/sight is float32 \[3\], expected float32 \[2\]"
    with pytest.raises(UnusablePolicy, match=expected):
        list(Recording(tmp_path, spec()).pieces())


def test_what_is_no_segment_and_what_holds_no_rows_is_said(tmp_path):
    with pytest.raises(UnusablePolicy, match="holds no recorded rows yet"):
        Recording(tmp_path, spec())
    with pytest.raises(UnusablePolicy, match="cannot be read: No such file or directory"):
        Recording(tmp_path / "none", spec())
    table = pa.table({"x": [1]}, metadata={"policy_server.spec": json.dumps({"specs": 1})})
    pq.write_table(table, Path(tmp_path, "0000000000000000.parquet"))
    with pytest.raises(UnusablePolicy, match="says nothing of a policy's spec"):
        list(Recording(tmp_path, spec()).pieces())
