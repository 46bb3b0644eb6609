import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from saver.artifact import IncompleteError, check_files, hash_files, is_name, publishing
from saver.artifact.files import read_json, write_json
from saver.artifact.publishing import discard, publish, publish_over, staged_folder
from tests.support import killed_writers


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def litter(parent: Path, name: str = "7", machine: str | None = None) -> Path:
    """What a killed writer of `parent/name` leaves."""
    return fill(parent / f".saver.{machine or publishing._machine()}.{name}.0123abcd", {"variables/x": "1"})


def export(folder: Path, version: int) -> Path:
    killed_writers.write_version(folder, version, "policy.json")
    return folder


def true_version(folder: Path) -> int:
    manifest = read_json(folder / "policy.json")
    check_files(folder, manifest["files"])
    return manifest["version"]


@pytest.fixture(params=["exchange", "two renames"])
def _both_ways(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(publishing, "_exchange", lambda *_: False)


def test_staged_folder_lies_hidden_beside_its_destination(tmp_path):
    destination = tmp_path / "new" / "0000000700"
    with staged_folder(destination) as staged:
        assert staged.parent == destination.parent
        assert not is_name(staged.name)
        assert stat.S_IMODE(staged.stat().st_mode) == 0o755
    assert list(destination.parent.iterdir()) == []


def test_staged_folder_is_gone_after_an_exception(tmp_path):
    def fail(staged: Path) -> None:
        fill(staged, {"variables/x": "1"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "a") as staged:
        fail(staged)
    assert list(tmp_path.iterdir()) == []


def test_publish_makes_the_folder_appear(tmp_path):
    destination = tmp_path / "a"
    with staged_folder(destination) as staged:
        fill(staged, {"variables/x": "1", "checkpoint.json": "{}"})
        assert not destination.exists()
        publish(staged, destination)
    assert content(destination) == {"variables/x": "1", "checkpoint.json": "{}"}
    assert list(tmp_path.iterdir()) == [destination]


@pytest.mark.usefixtures("_both_ways")
def test_publish_replaces_the_whole_of_an_earlier_folder(tmp_path):
    destination = fill(tmp_path / "a", {"variables/x": "1", "variables/old": "2", "checkpoint.json": "{}"})
    with staged_folder(destination) as staged:
        publish(fill(staged, {"variables/x": "9"}), destination)
    assert content(destination) == {"variables/x": "9"}
    assert list(tmp_path.iterdir()) == [destination]


def test_open_files_of_a_replaced_folder_stay_readable(tmp_path):
    destination = fill(tmp_path / "a", {"x": "1"})
    with (destination / "x").open() as reader, staged_folder(destination) as staged:
        publish(fill(staged, {"x": "9"}), destination)
        assert reader.read() == "1"


def test_publish_over_an_export_keeps_checkpoints_and_removes_old_variables(tmp_path):
    destination = fill(
        tmp_path / "export",
        {
            "saved_model.pb": "1",
            "variables/variables.data-00000-of-00002": "1",
            "variables/variables.index": "1",
            "checkpoints/7/variables/x": "7",
            "policy.json": '{"old": 1}',
        },
    )
    with staged_folder(destination) as staged:
        fill(staged, {"saved_model.pb": "2", "variables/variables.index": "2", "policy.json": '{"new": 1}'})
        (staged / "assets").mkdir()
        publish_over(staged, destination)
    assert content(destination) == {
        "saved_model.pb": "2",
        "variables/variables.index": "2",
        "checkpoints/7/variables/x": "7",
        "policy.json": '{"new": 1}',
    }
    assert (destination / "assets").is_dir()
    assert list(tmp_path.iterdir()) == [destination]


def test_publish_over_puts_the_manifest_last(tmp_path, monkeypatch):
    destination = fill(tmp_path / "export", {"variables/x": "1", "policy.json": "{}"})
    order = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        order.append(Path(target).relative_to(destination).as_posix())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    with staged_folder(destination) as staged:
        names = ["a.pb", "policy.json", "saved_model.pb", "variables/x", "variables/z.json", "zz.pbtxt"]
        publish_over(fill(staged, dict.fromkeys(names, "2")), destination)
    assert sorted(order) == sorted(names)
    assert order[-1] == "policy.json"


def test_export_that_is_half_replaced_is_at_odds_with_its_manifest(tmp_path, monkeypatch):
    destination = fill(tmp_path / "export", {"saved_model.pb": "1", "variables/x": "1"})
    old = hash_files(destination, [destination / "saved_model.pb", destination / "variables/x"])
    write_json(destination / "policy.json", {"files": old})
    replace = Path.replace

    def power_cut(self: Path, target: Path) -> Path:
        if self.name == "saved_model.pb":
            raise OSError("power cut")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"), staged_folder(destination) as staged:
        publish_over(fill(staged, {"saved_model.pb": "2", "variables/x": "2", "policy.json": "{}"}), destination)
    manifest = json.loads((destination / "policy.json").read_text())
    with pytest.raises(IncompleteError, match="variables/x has sha256"):
        check_files(destination, manifest["files"])


def test_discarded_folder_is_gone(tmp_path):
    discard(fill(tmp_path / "a", {"sub/x": "1"}))
    assert list(tmp_path.iterdir()) == []


def test_discarding_what_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


# Replacing an export


def test_replaced_export_is_exactly_the_new_one_beside_what_others_have_put_there(tmp_path):
    foreign = {"README.md": "mine", "notes/a": "mine", "checkpoints/7/variables/x": "7", ".git/config": "mine"}
    destination = fill(export(tmp_path / "policy", 1), foreign)
    with staged_folder(destination) as staged:
        expected = content(export(staged, 2))
        publish_over(staged, destination)
    assert content(destination) == foreign | expected
    assert not (destination / "assets").exists()
    assert true_version(destination) == 2


def test_replaced_export_does_not_follow_links_out_of_it(tmp_path):
    shared = fill(tmp_path / "shared", {"vocabulary": "of all"})
    destination = export(tmp_path / "policy", 2)
    (destination / "assets").symlink_to(shared)
    (destination / "variables" / "link").symlink_to(shared)
    with staged_folder(destination) as staged:
        publish_over(export(staged, 4), destination)
    assert content(shared) == {"vocabulary": "of all"}
    assert (destination / "variables" / "link").is_symlink()  # nobody says that it was the export's
    assert true_version(destination) == 4


def test_what_is_no_export_loses_nothing(tmp_path):
    mine = {"assets/logo.png": "mine", "variables/x": "mine", "serving/y": "mine"}
    destination = fill(tmp_path / "project", mine)
    with staged_folder(destination) as staged:
        publish_over(fill(staged, {"saved_model.pb": "1", "policy.json": "{}"}), destination)
    assert content(destination).items() >= mine.items()


def test_publish_over_nothing_is_a_rename(tmp_path):
    with staged_folder(tmp_path / "policy") as staged:
        inode = export(staged, 1).stat().st_ino
        publish_over(staged, tmp_path / "policy")
    assert (tmp_path / "policy").stat().st_ino == inode
    assert list(tmp_path.iterdir()) == [tmp_path / "policy"]


def test_folder_without_a_manifest_has_no_graph_while_its_files_are_replaced(tmp_path, monkeypatch):
    destination = fill(tmp_path / "policy", {"saved_model.pb": "plain", "variables/x": "plain"})
    seen = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        seen.append(((destination / "saved_model.pb").exists(), self.name))
        return replace(self, target)

    with staged_folder(destination) as staged:
        export(staged, 1)
        monkeypatch.setattr(Path, "replace", recorded)
        publish_over(staged, destination)
    assert {name for there, name in seen if there} == {"policy.json"}
    assert true_version(destination) == 1


def test_full_disk_is_met_before_the_old_export_is_changed(tmp_path, monkeypatch):
    destination = fill(export(tmp_path / "policy", 2), {"checkpoints/7/x": "7"})
    before = content(destination)

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with staged_folder(destination) as staged:
        export(staged, 3)
        monkeypatch.setattr(Path, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish_over(staged, destination)
    assert content(destination) == before
    assert list(tmp_path.iterdir()) == [destination]


def test_writers_of_one_export_take_turns(tmp_path):
    destination = export(tmp_path / "policy", 0)
    versions = iter(range(1, 61))

    def write() -> None:
        for version in versions:
            with staged_folder(destination) as staged:
                publish_over(export(staged, version), destination)

    in_threads(write, write, write)
    assert true_version(destination) in range(1, 61)  # whole, and of whoever was the last: a writer may be held up
    assert list(tmp_path.iterdir()) == [destination]


def test_slower_one_of_two_first_exports_keeps_what_came_before_it(tmp_path):
    destination = tmp_path / "policy"
    with staged_folder(destination) as slow:
        export(slow, 2)
        with staged_folder(destination) as fast:
            publish_over(export(fast, 1), destination)
        fill(destination, {"checkpoints/7/x": "7"})
        publish_over(slow, destination)
    assert true_version(destination) == 2
    assert content(destination)["checkpoints/7/x"] == "7"


def test_writers_of_one_checkpoint_take_turns(tmp_path):
    destination = tmp_path / "latest"
    versions = iter(range(60))

    def write() -> None:
        for version in versions:
            with staged_folder(destination) as staged:
                publish(export(staged, version), destination)

    in_threads(write, write, write)
    assert true_version(destination) in range(57, 60)
    assert list(tmp_path.iterdir()) == [destination]


def in_threads(*targets: Callable[[], None]) -> None:
    errors = []

    def run(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "empty folder"])
def test_publish_replaces_whatever_has_the_name(tmp_path, kind):
    target, destination = tmp_path / "target", tmp_path / "latest"
    if kind == "link":
        fill(target, {"x": "1"})
    if kind.endswith("link"):
        destination.symlink_to(target)
    elif kind == "file":
        destination.write_text("1")
    else:
        destination.mkdir()
    with staged_folder(destination) as staged:
        publish(fill(staged, {"x": "2"}), destination)
    assert not destination.is_symlink()
    assert content(destination) == {"x": "2"}
    assert set(tmp_path.iterdir()) <= {target, destination}
    assert kind != "link" or content(target) == {"x": "1"}


# What killed writers leave


def test_next_writer_deletes_what_killed_ones_have_left(tmp_path):
    litter(tmp_path)
    litter(tmp_path, "other")
    with staged_folder(tmp_path / "a") as staged:
        assert list(tmp_path.iterdir()) == [staged]


def test_folders_of_living_writers_stay(tmp_path):
    with staged_folder(tmp_path / "a") as one, staged_folder(tmp_path / "a") as two, staged_folder(tmp_path / "b"):
        assert len({one, two, *tmp_path.iterdir()}) == 3


@pytest.mark.parametrize("name", [".git", ".saver", ".saver.d", ".a.0123abcd", ".saver.nothexad.a.b", "saver.0.a.b"])
def test_foreign_folders_stay(tmp_path, name):
    fill(tmp_path / name, {"x": "1"})
    os.utime(tmp_path / name, (0, 0))
    with staged_folder(tmp_path / "a"):
        pass
    assert content(tmp_path) == {f"{name}/x": "1"}


def test_files_and_links_with_such_a_name_stay(tmp_path):
    target = fill(tmp_path / "target", {"x": "1"})
    names = [litter(tmp_path, name).name for name in "ab"]
    before = sorted(["target", *names])
    for name in names:
        discard(tmp_path / name)
    (tmp_path / names[0]).write_text("a file")
    (tmp_path / names[1]).symlink_to(target)
    with staged_folder(tmp_path / "a"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert content(target) == {"x": "1"}


@pytest.mark.parametrize(("age_s", "stays"), [(23 * 3600, True), (25 * 3600, False)])
def test_folder_of_another_machine_is_dead_after_a_day(tmp_path, age_s, stays):
    then = time.time() - age_s
    os.utime(litter(tmp_path, machine="01234567"), (then, then))
    with staged_folder(tmp_path / "a"):
        pass
    assert bool(content(tmp_path)) == stays


def test_without_locks_all_works_but_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    left = litter(tmp_path)
    for version in (1, 2):
        with staged_folder(tmp_path / "a") as staged:
            publish(export(staged, version), tmp_path / "a")
        with staged_folder(tmp_path / "policy") as staged:
            publish_over(export(staged, version), tmp_path / "policy")
    assert (true_version(tmp_path / "a"), true_version(tmp_path / "policy")) == (2, 2)
    assert set(tmp_path.iterdir()) == {left, tmp_path / "a", tmp_path / "policy"}


def test_long_names_are_fine(tmp_path):
    name = "a" * 255
    with staged_folder(tmp_path / name) as staged:
        publish(export(staged, 1), tmp_path / name)
    discard(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
