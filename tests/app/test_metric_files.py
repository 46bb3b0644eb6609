"""What the processes of a server count is read together, and stays the same when those that have ended are joined."""

import fcntl
import os
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.metric_files import join_ended, together_in

# More than a kernel gives to any process.
ENDED, ENDED_TOO = 2**30, 2**30 + 1
HERE = os.getpid()


def write(path: Path, values: dict[str, float], at: float = 0.0) -> None:
    """The file of a process with a value for each policy."""
    file, name = MmapedDict(str(path)), f"m_{path.name.partition('_')[0]}"
    for policy, value in values.items():
        file.write_value(mmap_key(name, name, ["policy"], [policy], "help"), value, at)
    file.close()


def counts(folder: Path) -> list[str]:
    """What a scrape gives."""
    with together_in(folder) as registry:
        return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.db")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two processes that have ended, of which one counted nothing of policy b, and one that runs."""
    write(tmp_path / f"counter_{ENDED}.db", {"a": 2, "b": 1})
    write(tmp_path / f"counter_{ENDED_TOO}.db", {"a": 3})
    write(tmp_path / f"counter_{HERE}.db", {"a": 100})
    write(tmp_path / f"gauge_mostrecent_{ENDED}.db", {"a": 7, "b": 8}, at=20)
    write(tmp_path / f"gauge_mostrecent_{ENDED_TOO}.db", {"a": 9}, at=10)
    return tmp_path


def test_counters_are_added_up_and_of_a_gauge_the_last_value_counts(folder: Path) -> None:
    assert sorted(counts(folder)) == [
        'm_counter{policy="a"} 105.0', 'm_counter{policy="b"} 1.0',
        'm_gauge{policy="a"} 7.0', 'm_gauge{policy="b"} 8.0',
    ]  # fmt: skip


def test_a_scrape_is_the_same_after_processes_were_joined_and_joined_again(folder: Path) -> None:
    before = sorted(counts(folder))
    for _ in range(2):
        join_ended(folder)
        assert sorted(counts(folder)) == before
        assert files(folder) == {"counter_ended.db", f"counter_{HERE}.db", "gauge_mostrecent_ended.db"}


def test_those_that_end_later_are_added_to_those_before(folder: Path) -> None:
    join_ended(folder)
    write(folder / f"counter_{ENDED}.db", {"b": 10, "c": 1})
    write(folder / f"gauge_mostrecent_{ENDED}.db", {"a": 1}, at=30)
    join_ended(folder)
    assert sorted(counts(folder)) == [
        'm_counter{policy="a"} 105.0', 'm_counter{policy="b"} 11.0', 'm_counter{policy="c"} 1.0',
        'm_gauge{policy="a"} 1.0', 'm_gauge{policy="b"} 8.0',
    ]  # fmt: skip


def test_while_a_scrape_runs_files_are_left_for_the_next_time(folder: Path) -> None:
    before = files(folder)
    write(folder / f"gauge_livesum_{ENDED}.db", {"a": 1})
    with together_in(folder):
        join_ended(folder)
        assert files(folder) == before, "but for what a process that has ended holds no more"
    join_ended(folder)
    assert f"counter_{ENDED}.db" not in files(folder)


def test_scrapes_do_not_keep_each_other_waiting(folder: Path) -> None:
    with together_in(folder), together_in(folder) as registry:
        assert b"m_counter" in generate_latest(registry)


def test_on_a_file_system_without_locks_counts_are_read_and_never_joined(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError("no locks available")

    before, found = files(folder), counts(folder)
    monkeypatch.setattr(fcntl, "flock", none)
    join_ended(folder)
    assert (files(folder), counts(folder)) == (before, found)


@pytest.mark.parametrize("error", [PermissionError(), OSError("odd")])
def test_a_process_that_cannot_be_asked_has_not_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    before = files(folder)
    monkeypatch.setattr(os, "kill", refuse)
    join_ended(folder)
    assert files(folder) == before


def test_files_without_the_number_of_a_process_stay(folder: Path) -> None:
    write(folder / "counter_-5.db", {"a": 1})
    write(folder / "counter_old.db", {"a": 1})
    (folder / "notes.txt").write_text("no counts")
    join_ended(folder)
    assert {"counter_-5.db", "counter_old.db"} <= files(folder)
    assert (folder / "notes.txt").read_text() == "no counts"
