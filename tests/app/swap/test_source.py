import errno
import os
import shutil
from pathlib import Path

import pytest

from app.errors import SwapRefused
from app.swap.source import Source, checkpoint_folders
from tests.app.swap.checkpoints import Identity, identify, put


class CountingSource(Source):
    """A source that tells which folders it has read."""

    def __init__(self, policy: Path) -> None:
        self.read: list[str] = []
        super().__init__(policy, self._identify_and_count)

    def _identify_and_count(self, folder: Path, rest_s: float) -> Identity:
        self.read.append(folder.name)
        return identify(folder, rest_s)


def seen(source: Source, **how) -> dict[str, int]:
    return {c.name: c.train_step for c in source.look(0.25, **how).complete}


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
    sight = CountingSource(tmp_path / "nowhere").look(0.25)
    assert (sight.complete, sight.incomplete, sight.unreadable) == ([], {}, {})


def test_checkpoints_are_found_with_what_identifies_them(tmp_path):
    folder = put(tmp_path / "checkpoints", "0000000700", 700)
    [found] = CountingSource(tmp_path).look(0.25).complete
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
        sight = source.look(0.25)
        assert (sight.complete, sight.incomplete) == ([], {"a": "weights are missing"})
    put(tmp_path / "checkpoints", "a", 1)
    assert seen(source) == {"a": 1}


def test_unreadable_checkpoint_hides_no_other(tmp_path):
    put(tmp_path / "checkpoints", "bad", 9, unreadable="its index is damaged")
    put(tmp_path / "checkpoints", "good", 1)
    sight = CountingSource(tmp_path).look(0.25)
    assert [c.name for c in sight.complete] == ["good"]
    assert sight.unreadable == {"bad": "its index is damaged"}


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
        sight = source.look(0.25)
        assert [candidate.name for candidate in sight.complete] == ["b"]
        assert sight.unreadable == {"a": f"it cannot be read: {os.strerror(number)}"}
        assert not sight.unsettled
        with pytest.raises(SwapRefused, match="a is refused: it cannot be read"):
            sight.named("a")
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
