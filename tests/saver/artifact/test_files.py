import hashlib
import json
import stat
from pathlib import Path

import pytest

from saver.artifact import IncompleteError, check_files, digest_of, hash_files, is_name
from saver.artifact.files import discard, publish, publish_over, read_json, staged_folder, write_json


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a", "7", "0000000700", "policy_checkpoint_0000000001", "a.b-c_d", "A1", "export"])
def test_names(name):
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-a", "_a", "a b", "a/b", "ü", "a\n", "\n", "a\0"])
def test_what_is_no_name(name):
    assert not is_name(name)


# Hashes


def test_hashes_are_sha256_by_relative_path(tmp_path):
    fill(tmp_path, {"b": "2", "sub/a": "1"})
    assert hash_files(tmp_path, [tmp_path / "sub/a", tmp_path / "b"]) == {
        "b": hashlib.sha256(b"2").hexdigest(),
        "sub/a": hashlib.sha256(b"1").hexdigest(),
    }


def test_digest_is_the_same_in_every_version_of_the_program():
    hashes = {"variables/b": "22", "variables/a": "11"}
    assert digest_of(hashes) == hashlib.sha256(b"11  variables/a\n22  variables/b\n").hexdigest()


def test_digest_does_not_depend_on_order_but_on_every_name_and_hash():
    base = {"a": "11", "b": "22"}
    assert digest_of({"b": "22", "a": "11"}) == digest_of(base)
    others = [{"a": "22", "b": "11"}, {"a": "11"}, {"a": "11", "c": "22"}, {"a": "11", "b": "23"}, {}]
    assert len({digest_of(h) for h in [base, *others]}) == len(others) + 1


def test_files_that_are_as_the_manifest_says_pass_and_others_beside_do_not_matter(tmp_path):
    fill(tmp_path, {"a": "1", "sub/b": "2"})
    hashes = hash_files(tmp_path, [tmp_path / "a", tmp_path / "sub/b"])
    fill(tmp_path, {"checkpoints/7/x": "3"})
    check_files(tmp_path, hashes)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "sub/b").unlink(), "sub/b is missing"),
        (lambda f: (f / "sub/b").write_text("3"), "sub/b has sha256 4e07408562be…, its manifest says d4735e3a265e…"),
        (lambda f: (f / "sub/b").write_text(""), "sub/b has sha256"),
        (lambda f: ((f / "sub/b").unlink(), (f / "sub/b").mkdir()), "sub/b cannot be read: Is a directory"),
        (lambda f: ((f / "sub/b").unlink(), (f / "sub/b").symlink_to("/etc/hostname")), "sub/b leads outside"),
        (
            lambda f: ((f / "sub/b").unlink(), (f / "sub").rmdir(), (f / "sub").symlink_to("/etc")),
            "sub/b leads outside",
        ),
    ],
)
def test_damaged_folder_names_the_file(tmp_path, damage, says):
    folder = fill(tmp_path / "export", {"a": "1", "sub/b": "2"})
    hashes = hash_files(folder, [folder / "a", folder / "sub/b"])
    damage(folder)
    with pytest.raises(IncompleteError) as caught:
        check_files(folder, hashes)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/../../secret"])
def test_manifest_cannot_name_files_outside_its_folder(tmp_path, name):
    fill(tmp_path, {"secret": "s", "export/sub/a": "1"})
    with pytest.raises(IncompleteError, match="leads outside export"):
        check_files(tmp_path / "export", {name: hashlib.sha256(b"s").hexdigest()})


def test_folder_that_is_itself_a_link_passes(tmp_path):
    fill(tmp_path / "real", {"a": "1"})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_files(tmp_path / "link", hash_files(tmp_path / "real", [tmp_path / "real" / "a"]))


# JSON


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "policy.json"
    write_json(path, {"format": 1, "é": [1.5, None]})
    write_json(path, {"format": 2})
    assert read_json(path) == {"format": 2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "policy.json is not JSON"),
        (b'{"format": 1', "policy.json is not JSON"),
        (b"\xff\xfe", "policy.json is not JSON"),
        (b"[1]", "policy.json holds list, expected an object"),
        (b"null", "policy.json holds NoneType, expected an object"),
    ],
)
def test_manifest_that_is_no_json_object_is_incomplete(tmp_path, body, says):
    (tmp_path / "policy.json").write_bytes(body)
    with pytest.raises(IncompleteError, match=says):
        read_json(tmp_path / "policy.json")


def test_manifest_that_cannot_be_read_is_incomplete_and_a_missing_one_is_missing(tmp_path):
    (tmp_path / "policy.json").mkdir()
    with pytest.raises(IncompleteError, match=r"policy\.json cannot be read: Is a directory"):
        read_json(tmp_path / "policy.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "checkpoint.json")


def test_numbers_that_are_no_json_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "policy.json", {"bound": float("nan")})
    assert not (tmp_path / "policy.json").exists()


# Publishing


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
        if self.name == "x":
            raise OSError("power cut")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"), staged_folder(destination) as staged:
        publish_over(fill(staged, {"saved_model.pb": "2", "variables/x": "2", "policy.json": "{}"}), destination)
    manifest = json.loads((destination / "policy.json").read_text())
    with pytest.raises(IncompleteError, match=r"saved_model\.pb has sha256"):
        check_files(destination, manifest["files"])


def test_discarded_folder_is_gone(tmp_path):
    discard(fill(tmp_path / "a", {"sub/x": "1"}))
    assert list(tmp_path.iterdir()) == []


def test_discarding_what_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
