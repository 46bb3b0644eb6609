import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from app.artifacts import stamps
from app.control.source import TURNS, Source, checkpoint_folders
from app.errors import SwapRefused
from tests.support.checkpoints import Identity, identify, put


class CountingSource(Source):
    """A source that records which folders it has read."""

    def __init__(self, policy: Path) -> None:
        self.read: list[str] = []
        super().__init__(policy, self._identify_and_count)

    def _identify_and_count(self, folder: Path, rest_s: float) -> Identity:
        self.read.append(folder.name)
        return identify(folder, rest_s)


def seen(source: Source, **how) -> dict[str, int]:
    return {c.name: c.train_step for c in source.scan(0.25, **how).complete}


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("cartpole", ["cartpole/checkpoints"]),
        ("policy", ["policy/checkpoints", "checkpoints"]),
        ("collect_policy", ["collect_policy/checkpoints", "checkpoints"]),
        ("greedy_policy", ["greedy_policy/checkpoints", "checkpoints"]),
    ],
)
def test_trainer_layout_has_its_checkpoints_beside_the_policy(name, folders):
    root = Path("/policies")
    assert checkpoint_folders(root / name) == [root / folder for folder in folders]


def test_folder_without_checkpoints_is_empty_and_not_an_error(tmp_path):
    scan = CountingSource(tmp_path / "nowhere").scan(0.25)
    assert (scan.complete, scan.incomplete, scan.unreadable) == ([], {}, {})


def test_checkpoints_are_found_with_what_identifies_them(tmp_path):
    folder = put(tmp_path / "checkpoints", "0000000700", 700)
    [found] = CountingSource(tmp_path).scan(0.25).complete
    assert (found.name, found.folder, found.train_step) == ("0000000700", folder, 700)
    assert found.digest == identify(folder, 0).digest


def test_trainer_checkpoints_are_found_and_those_inside_the_policy_win(tmp_path):
    put(tmp_path / "checkpoints", "policy_checkpoint_0000000001", 1)
    put(tmp_path / "checkpoints", "both", 2)
    put(tmp_path / "greedy_policy" / "checkpoints", "both", 3)
    assert seen(CountingSource(tmp_path / "greedy_policy")) == {"policy_checkpoint_0000000001": 1, "both": 3}


def test_folders_outside_the_policy_are_looked_into_and_theirs_win(tmp_path):
    for folder, train_step in ((tmp_path / "p" / "checkpoints", 1), (tmp_path / "uploads", 2)):
        put(folder, "both", train_step)
        put(folder, folder.name, train_step)
    source = Source(tmp_path / "p", identify, [tmp_path / "uploads", tmp_path / "none"])
    assert seen(source) == {"checkpoints": 1, "uploads": 2, "both": 2}


def test_names_that_are_no_checkpoints_are_passed_over(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for name in (".700.x1y2", "a b", "ü", "export", "good"):
        put(checkpoints, name, 1)
    (checkpoints / "file").write_text("")
    assert seen(CountingSource(tmp_path)) == {"good": 1}


def test_link_to_a_checkpoint_counts(tmp_path):
    elsewhere = put(tmp_path / "elsewhere", "x", 5)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "linked").symlink_to(elsewhere)
    (tmp_path / "checkpoints" / "dangling").symlink_to(tmp_path / "gone")
    assert seen(CountingSource(tmp_path)) == {"linked": 5}


def test_what_has_not_changed_is_not_read_again(tmp_path):
    source = CountingSource(tmp_path)
    put(tmp_path / "checkpoints", "a", 1)
    put(tmp_path / "checkpoints", "bad", 2, unreadable="its index is damaged")
    seen(source)
    put(tmp_path / "checkpoints", "b", 3)
    assert seen(source) == {"a": 1, "b": 3}
    assert sorted(source.read) == ["a", "b", "bad"]


def test_afresh_reads_everything_again(tmp_path):
    source = CountingSource(tmp_path)
    put(tmp_path / "checkpoints", "a", 1)
    seen(source)
    seen(source, afresh=True)
    assert source.read == ["a", "a"]


def test_overwritten_checkpoint_is_read_again_even_with_equal_size_and_time(tmp_path):
    source = CountingSource(tmp_path)
    folder = put(tmp_path / "checkpoints", "a", 1)
    weights = folder / "variables" / "weights"
    before = weights.stat()
    assert seen(source) == {"a": 1}
    staged = put(tmp_path / "staged", "a", 2)
    os.utime(staged / "variables" / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))
    (staged / "variables" / "weights").replace(weights)
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert seen(source) == {"a": 2}


def test_incomplete_checkpoint_is_looked_at_until_it_is_complete(tmp_path):
    source = CountingSource(tmp_path)
    folder = tmp_path / "checkpoints" / "a"
    folder.mkdir(parents=True)
    for _ in range(2):
        scan = source.scan(0.25)
        assert (scan.complete, scan.incomplete) == ([], {"a": "weights are missing"})
    put(tmp_path / "checkpoints", "a", 1)
    assert seen(source) == {"a": 1}


def test_unreadable_checkpoint_hides_no_other(tmp_path):
    put(tmp_path / "checkpoints", "bad", 9, unreadable="its index is damaged")
    put(tmp_path / "checkpoints", "good", 1)
    scan = CountingSource(tmp_path).scan(0.25)
    assert [c.name for c in scan.complete] == ["good"]
    assert scan.unreadable == {"bad": "its index is damaged"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("refused", [False, True], ids=["plain error", "refusal"])
def test_what_cannot_be_read_for_now_is_named_and_read_again_though_nothing_has_changed(tmp_path, number, refused):
    source = CountingSource(tmp_path)
    folder = put(tmp_path / "checkpoints", "a", 1)
    put(tmp_path / "checkpoints", "b", 2)
    failing = [OSError(number, os.strerror(number))] * 3

    def fail(folder: Path, rest_s: float) -> Identity:
        source.read.append(folder.name)
        if folder.name == "a" and failing:
            error = failing.pop()
            raise SwapRefused(f"it cannot be read: {error.strerror}", for_now=True) if refused else error
        return identify(folder, rest_s)

    source._identify = fail
    for _ in range(3):
        scan = source.scan(0.25)
        assert [candidate.name for candidate in scan.complete] == ["b"]
        assert scan.unreadable == {"a": f"it cannot be read: {os.strerror(number)}"}
        assert not scan.still_changing
        with pytest.raises(SwapRefused, match="a is refused: it cannot be read"):
            scan.named("a")
    assert seen(source) == {"a": 1, "b": 2}
    assert source.read.count("a") == 4
    assert source.read.count("b") == 1
    assert folder.is_dir()


def test_deleted_checkpoint_is_forgotten(tmp_path):
    source = CountingSource(tmp_path)
    folder = put(tmp_path / "checkpoints", "a", 1)
    assert seen(source) == {"a": 1}
    shutil.rmtree(folder)
    assert seen(source) == {}
    put(tmp_path / "checkpoints", "a", 1)
    assert seen(source) == {"a": 1}


class CountedCalls:
    """Counts what is asked of the file system below a folder: listings and stats, by name of the checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parent: Path) -> None:
        self.listings = 0
        self.below: set[str] = set()
        scandir, stat = os.scandir, os.stat
        prefix = f"{parent}/"

        def note(path) -> None:
            self.listings += os.fspath(path) == str(parent)
            if isinstance(path, (str, Path)) and str(path).startswith(prefix):
                self.below.add(str(path)[len(prefix) :].split("/")[0])

        def counted_scandir(path="."):
            note(path)
            return scandir(path)

        def counted_stat(path, *args, **more):
            note(path)
            return stat(path, *args, **more)

        monkeypatch.setattr(os, "scandir", counted_scandir)
        monkeypatch.setattr(os, "stat", counted_stat)

    def of(self, act) -> object:
        self.listings, self.below = 0, set()
        return act()


def many(tmp_path: Path, count: int) -> tuple[CountingSource, Path]:
    """A source that has looked at `count` checkpoints, which have been at rest for long."""
    folder = tmp_path / "checkpoints"
    for number in range(count):
        put(folder, f"{number:06}", number)
    source = CountingSource(tmp_path)
    source.scan(0.25)
    source.read.clear()
    return source, folder


@pytest.fixture
def at_rest(monkeypatch):
    """The clock of what has changed just now: every file that is there already is old enough."""
    monkeypatch.setattr(stamps, "_TICK_NS", -(10**18))


def test_a_scan_without_a_reported_change_reads_a_bounded_number_of_them(tmp_path, monkeypatch, at_rest):
    source, folder = many(tmp_path, 3 * TURNS)
    calls = CountedCalls(monkeypatch, folder)
    before = source.scan(0.25)
    for _ in range(3):
        assert calls.of(lambda: source.scan(0.25, only={"000001"})) is before
        assert calls.listings == 1
        assert "000001" in calls.below
        assert len(calls.below) <= TURNS + 64 + 64 + 1
    assert source.read == []


def test_new_replaced_and_removed_checkpoints_are_seen_at_the_next_look_among_thousands(tmp_path, at_rest):
    source, folder = many(tmp_path, 2 * TURNS)
    source.scan(0.25, only=())
    put(folder, "late", 9_000)
    put(folder, "late and older", 1)  # no name that can be asked for
    put(folder, "older", 0)
    shutil.rmtree(folder / "000000")
    staged = put(tmp_path, "staged", 8_000)
    shutil.rmtree(folder / "000001")
    staged.rename(folder / "000001")
    found = {candidate.name: candidate.train_step for candidate in source.scan(0.25, only=()).complete}
    assert (found["late"], found["older"], found["000001"]) == (9_000, 0, 8_000)
    assert "000000" not in found
    assert sorted(source.read) == ["000001", "late", "older"]
    newest = source.scan(0.25, only=()).newest_first
    assert [candidate.name for candidate in newest[:3]] == ["late", "000001", f"{2 * TURNS - 1:06}"]


def overwrite(folder: Path, train_step: int) -> None:
    (folder / "variables" / "weights").write_text(json.dumps({"train_step": train_step}))


def test_what_is_overwritten_in_place_is_seen_when_it_is_reported_or_asked_for_or_has_its_turn(tmp_path, at_rest):
    source, folder = many(tmp_path, 8 * TURNS)
    for _ in range(8):
        source.scan(0.25, only=())  # those that came last are others by now

    def step_of(name: str, **how) -> int:
        return next(c.train_step for c in source.scan(0.25, **how).complete if c.name == name)

    overwrite(folder / "000003", 70_003)
    source.changed([str(folder / "000003" / "variables" / "weights")])
    assert step_of("000003", only=()) == 70_003
    overwrite(folder / "000004", 70_004)
    assert step_of("000004", only={"000004"}) == 70_004
    overwrite(folder / "000005", 70_005)
    source.changed(None)
    assert step_of("000005", only=()) == 70_005
    overwrite(folder / "000006", 70_006)
    assert step_of("000006") == 70_006
    overwrite(folder / "000007", 70_007)
    assert 70_007 in [step_of("000007", only=()) for _ in range(8)]


def test_an_explicit_look_reads_nothing_that_has_certainly_not_changed(tmp_path, at_rest):
    source, folder = many(tmp_path, 20)
    put(folder, "bad", 1, unreadable="its index is damaged")
    source.scan(0.25)
    source.read.clear()
    overwrite(folder / "000007", 700)
    scan = source.scan(0.25, afresh=True)
    assert sorted(source.read) == ["000007", "bad"]
    assert scan.named("000007").train_step == 700


def test_incomplete_ones_are_looked_at_until_they_are_complete_among_thousands(tmp_path, at_rest):
    source, folder = many(tmp_path, 2 * TURNS)
    (folder / "half").mkdir()
    for _ in range(5):
        assert source.scan(0.25, only=()).still_changing == {"half"}
    put(folder, "half", 5_000)
    assert source.scan(0.25, only=()).named("half").train_step == 5_000
