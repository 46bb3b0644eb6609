"""Rows on disk: appended, recovered after any end of the process, closed, and removed at the limit."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.experience import closed_segment, open_segment
from app.experience.limits import RowLogLimits
from app.experience.row_log import RowLog
from app.experience.schema import Column
from tests.support.experience import COLUMNS, Reading, Simulator, append_steps, rows_of

KEPT = 10**9


OPEN: dict[Path, RowLog] = {}


@pytest.fixture(autouse=True)
def _closed():
    yield
    while OPEN:
        OPEN.popitem()[1].close()


def opened(folder, segment_bytes=KEPT, columns=COLUMNS, bytes_limit=4 * KEPT, segment_s=1e9):
    """The log of a folder; the one that was there is left as it is, as if its process had been killed."""
    if (before := OPEN.pop(folder, None)) is not None:
        before.close()
    OPEN[folder] = log = RowLog(folder, columns, RowLogLimits(bytes_limit, segment_bytes, segment_s), {"a": 1})
    return log


def closed(log):
    while log.close_next():
        pass


def steps_in(log, at=0):
    return [row["step"] for row in Reading(log, at).rest()]


def test_what_was_appended_is_read_in_order_across_segments_of_both_kinds(tmp_path):
    log, simulator = opened(tmp_path, 20_000), Simulator()
    for part in range(30):
        append_steps(log, [simulator], 10, journal=part)
        if part == 15:
            closed(log)
    assert {path.suffix for path in tmp_path.iterdir()} >= {".parquet", ".arrows"}
    assert steps_in(log) == list(range(1, 301))
    assert (log.first, log.end) == (0, 300)
    assert steps_in(log, 123) == list(range(124, 301))


def test_a_closed_segment_is_parquet_that_says_its_policy(tmp_path):
    log = opened(tmp_path, 5000)
    append_steps(log, [Simulator()], 50)
    append_steps(log, [Simulator()], 1)
    closed(log)
    (path,) = tmp_path.glob("*.parquet")
    assert path.name == "0000000000000000.parquet"
    table = pq.read_table(path)
    assert table.num_rows == 50
    assert json.loads(table.schema.metadata[b"policy_server.spec"]) == {"a": 1}
    field = table.schema.field("observation")
    assert (field.type.list_size, field.metadata[b"shape"]) == (4, b"[4]")
    assert not list(tmp_path.glob("*.partial"))


def test_an_open_segment_is_closed_by_age_once_it_has_rows(tmp_path):
    log = opened(tmp_path, segment_s=5)
    log.close_if_due(time.time() + 6)
    assert log.close_next() is False
    append_steps(log, [Simulator()])
    log.close_if_due(time.time() + 4)
    assert log.close_next() is False
    log.close_if_due(time.time() + 6)
    assert log.close_next() is True


def test_wherever_the_last_write_was_cut_the_rows_before_it_and_what_they_consumed_are_there(tmp_path):
    log, simulator = opened(tmp_path), Simulator()
    for part, count in enumerate((4, 4, 40)):  # what is left of the last one is more than what comes next
        log.append(rows_of(COLUMNS, [simulator.next() for _ in range(count)]), {"j": part}, b"pairing %d" % part)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    last = log._open.batches[-1]
    for size in (last.offset - 1, *range(last.offset, last.offset + last.size, 41), len(whole)):
        path.write_bytes(whole[:size])
        again = opened(tmp_path)
        parts, rows = (3, 48) if size == len(whole) else (1, 4) if size < last.offset else (2, 8)
        assert (again.end, again.consumed, again.pairing) == (rows, {"j": parts - 1}, b"pairing %d" % (parts - 1))
        append_steps(again, [Simulator()])
        assert path.stat().st_size == again.size
        assert len(steps_in(opened(tmp_path))) == rows + 1


def test_numbers_consumed_pairing_and_recent_steps_survive_closing_and_a_restart(tmp_path):
    log = opened(tmp_path, 3000)
    simulators = [Simulator("a"), Simulator("b", row=1)]
    log.append(rows_of(COLUMNS, []), {"first": 3}, b"state")
    for part in range(20):
        append_steps(log, simulators, 2, journal=part)
    closed(log)
    again = opened(tmp_path, 3000)
    assert (again.end, again.consumed, again.pairing, again.id) == (80, {"journal": 19}, b"state", log.id)
    assert sorted(again.recent_steps()) == [("a", "one", 0, 40), ("b", "one", 1, 40)]
    for _ in range(3):
        append_steps(again, simulators, 1, journal=20)
    assert steps_in(again) == [step for step in range(1, 44) for _ in simulators]


def test_a_segment_that_was_being_closed_when_the_process_ended_is_there_once(tmp_path, monkeypatch):
    log = opened(tmp_path, 3000)
    append_steps(log, [Simulator()], 40)
    append_steps(log, [Simulator("t")], 1)
    with monkeypatch.context() as patch:  # as if killed before the Parquet file was renamed
        patch.setattr(closed_segment, "write_closed", lambda *_: (tmp_path / "0.parquet.partial").touch() or exit())
        with pytest.raises(SystemExit):
            log.close_next()
    again = opened(tmp_path, 3000)
    assert len(steps_in(again)) == 41
    (arrows,) = (path for path in tmp_path.glob("*.arrows") if path.stem.endswith("0000"))
    content = arrows.read_bytes()
    closed(again)
    arrows.write_bytes(content)  # as if killed before the Arrow file was removed
    assert len(steps_in(opened(tmp_path, 3000))) == 41
    assert not arrows.exists()


KILLED = """
import sys
from pathlib import Path
from app.experience.limits import RowLogLimits
from app.experience.row_log import RowLog
from tests.support.experience import COLUMNS, Simulator, rows_of
log = RowLog(Path(sys.argv[1]), COLUMNS, RowLogLimits(10**9, 20_000, 1e9))
simulator = Simulator()
simulator.steps = log.end
while True:
    log.append(rows_of(COLUMNS, [simulator.next() for _ in range(7)]), {"j": simulator.steps})
    print(log.end, flush=True)
    log.close_next()
"""


def test_a_process_that_is_killed_at_any_moment_loses_nothing_that_was_appended(tmp_path):
    reported = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(40):
            reported = int(process.stdout.readline())
        process.kill()
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        log = opened(tmp_path, 20_000)
        assert log.end >= reported
        assert log.consumed == {"j": log.end}
        assert steps_in(log) == list(range(1, log.end + 1))
        OPEN.pop(tmp_path).close()


def test_the_limit_removes_the_oldest_segment_of_all_policies_first(tmp_path):
    limits = RowLogLimits(120_000, 20_000, 1e9, logs=2)
    logs = [RowLog(tmp_path / name, COLUMNS, limits) for name in "ab"]
    simulators = [Simulator("a"), Simulator("b")]
    for part in range(60):
        for log, simulator in zip(logs, simulators, strict=True):
            if part < 20 or log is logs[1]:
                append_steps(log, [simulator], 20)
                closed(log)
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.*"))
        assert on_disk == sum(log.size for log in logs)
        assert on_disk <= 120_000 + 20_000
    assert logs[0].removed_rows > 0
    assert logs[1].removed_rows > 0
    for log in logs:
        reader = Reading(log)
        assert [row["step"] for row in reader.rest()] == list(range(log.removed_rows + 1, log.end + 1))
        assert reader.lost == log.removed_rows
    assert logs[0].size == logs[0]._open.size  # a's were all older


def test_journals_count_for_the_limit(tmp_path):
    log = opened(tmp_path, 20_000, bytes_limit=120_000)
    log.journal_bytes = 60_000
    for _ in range(60):
        append_steps(log, [Simulator()], 20)
        closed(log)
    assert log.size <= 120_000 + 20_000
    assert log.removed_rows > 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 80_000


def test_a_small_limit_makes_segments_small(tmp_path):
    log = opened(tmp_path, KEPT, bytes_limit=2**16)
    for _ in range(100):
        append_steps(log, [Simulator()], 20)
        assert log.size <= 2**16 + 2**15
    assert 0 < log.removed_rows < log.end == 2000


def test_a_disk_that_is_full_changes_nothing_and_the_log_goes_on_later(tmp_path, monkeypatch):
    log, simulator = opened(tmp_path), Simulator()
    append_steps(log, [simulator], 4, journal=1)
    rows = rows_of(COLUMNS, [simulator.next() for _ in range(3)])
    written = os.pwrite

    def full(descriptor, data, offset):
        if len(data) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, data[:100], offset)

    with monkeypatch.context() as patch:
        patch.setattr(open_segment.os, "pwrite", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                log.append(rows, {"journal": 2})
    assert (log.end, log.consumed) == (4, {"journal": 1})
    assert log.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    log.append(rows, {"journal": 2})
    assert steps_in(log) == list(range(1, 8))
    assert (opened(tmp_path).end, opened(tmp_path).consumed) == (7, {"journal": 2})
    episodes = [(row["episode"], row["episode_step"]) for row in _stored(log)]
    assert episodes == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (-1, 0), (6, 0)]


def _stored(log):
    return [row for _, batch in log.scan(0) for row in batch.to_pylist()]


def test_a_full_disk_while_a_segment_is_closed_leaves_it_as_it_is(tmp_path, monkeypatch):
    log = opened(tmp_path, 3000)
    append_steps(log, [Simulator()], 40)
    append_steps(log, [Simulator("t")], 1)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(closed_segment.pq, "ParquetWriter", full)
        with pytest.raises(OSError, match="No space"):
            log.close_next()
    assert len(steps_in(log)) == 41
    assert log.close_next() is True
    assert len(steps_in(log)) == 41


def test_other_columns_begin_another_segment_and_another_page(tmp_path):
    log = opened(tmp_path)
    append_steps(log, [Simulator()], 3, j=1)
    other = (*COLUMNS[:1], Column("observation", "float32", (2,)), *COLUMNS[2:])
    again = opened(tmp_path, columns=other)
    assert (again.end, again.consumed) == (3, {"j": 1})
    append_steps(again, [Simulator()], 2)
    reader = Reading(again)
    assert [np.shape(reader.page()["columns"]["observation"]) for _ in range(2)] == [(3, 4), (2, 2)]


def test_an_open_segment_that_is_empty_after_a_power_cut_changes_neither_numbers_nor_cursors_nor_what_was_consumed(
    tmp_path,
):
    log, simulator = opened(tmp_path, 3000), Simulator()
    for part in range(3):
        append_steps(log, [simulator], 40, journal=part)
    log.close_if_due(time.time())
    closed(log)
    (empty,) = tmp_path.glob("*.arrows")
    empty.write_bytes(b"")
    again = opened(tmp_path, 3000)
    assert (again.id, again.end, again.consumed) == (log.id, 120, {"journal": 2})
    append_steps(again, [simulator])
    assert steps_in(again) == list(range(1, 122))
    (tmp_path / "0000000000000080.parquet").write_bytes(b"")
    for open_one in tmp_path.glob("*.arrows"):
        open_one.write_bytes(b"")
    assert (opened(tmp_path).id, opened(tmp_path).consumed) == (log.id, {"journal": 1})


def test_a_segment_is_on_the_disk_when_it_begins_and_before_the_open_one_is_removed(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def record(descriptor):
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, len(list(tmp_path.glob("*.arrows")))))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    log = opened(tmp_path, 3000)
    assert [name for name, _ in synced] == ["0000000000000000.partial", tmp_path.name]
    append_steps(log, [Simulator()], 40)
    log.close_if_due(time.time())
    synced.clear()
    closed(log)
    assert synced == [("0000000000000000.parquet.partial", 2), (tmp_path.name, 2)]


def test_a_closed_segment_has_nothing_that_only_the_next_process_needs(tmp_path):
    log = opened(tmp_path, 3000)
    log.append(rows_of(COLUMNS, []), {}, b"last steps" * 10**5)
    for _ in range(3):
        append_steps(log, [Simulator()], 40)
    closed(log)
    assert all(path.stat().st_size < 20_000 for path in tmp_path.glob("*.parquet"))
    assert opened(tmp_path).pairing == log.pairing


def test_one_more_scalar_column_goes_on_with_numbers_and_episodes_and_without_steps_of_the_former_columns(tmp_path):
    log, simulator = opened(tmp_path), Simulator()
    log.append(rows_of(COLUMNS, [simulator.next() for _ in range(3)]), {"j": 1}, b"steps of the former columns")
    again = opened(tmp_path, columns=(*COLUMNS[:2], Column("observation/speed", "float32"), *COLUMNS[2:]))
    assert (again.end, again.consumed, again.id, again.pairing) == (3, {"j": 1}, log.id, b"")
    append_steps(again, [simulator])
    assert [(row["episode"], row["episode_step"]) for row in _stored(again)] == [(0, step) for step in range(4)]


def test_files_that_are_no_segments_are_left_as_they_are(tmp_path):
    append_steps(opened(tmp_path), [Simulator()], 3)
    others = [tmp_path / name for name in ("mine.parquet", "mine.arrows", "2024.parquet")]
    for other in others:
        other.write_bytes(b"x")
    assert steps_in(opened(tmp_path)) == [1, 2, 3]
    assert [other.read_bytes() for other in others] == [b"x"] * 3


def test_a_file_that_cannot_be_read_is_left_out(tmp_path, caplog):
    log = opened(tmp_path, 3000)
    for name in "abc":
        append_steps(log, [Simulator(name)], 40)
    closed(log)
    (tmp_path / "0000000000000040.parquet").write_bytes(b"PAR1 it is not")
    reader = Reading(opened(tmp_path))
    assert [row["session"] for row in reader.rest()] == ["a"] * 40 + ["c"] * 40
    assert reader.lost == 40
    assert "0000000000000040.parquet cannot be read" in caplog.text
