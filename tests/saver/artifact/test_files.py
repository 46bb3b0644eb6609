import hashlib
import os
from pathlib import Path

import pytest

from saver.artifact import IncompleteError, check_files, digest_of, hash_files, is_name
from saver.artifact.files import read_json, write_json


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


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
        (lambda f: ((f / "sub/b").unlink(), os.mkfifo(f / "sub/b")), "sub/b cannot be read: not a regular file"),
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


def test_fifo_in_place_of_a_file_blocks_no_reader(tmp_path):
    os.mkfifo(tmp_path / "policy.json")
    with pytest.raises(IncompleteError, match=r"policy\.json cannot be read: not a regular file"):
        read_json(tmp_path / "policy.json")
    with pytest.raises(IncompleteError, match=r"policy\.json cannot be read: not a regular file"):
        check_files(tmp_path, {"policy.json": "00"})
    with pytest.raises(OSError, match="not a regular file"):
        hash_files(tmp_path, [tmp_path / "policy.json"])


def test_numbers_that_are_no_json_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "policy.json", {"bound": float("nan")})
    assert not (tmp_path / "policy.json").exists()


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="is no name of a file"):
        check_files(tmp_path, {"variables/\0x": "a digest"})
