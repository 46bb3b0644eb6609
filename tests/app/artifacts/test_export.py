"""An export is known by the bytes of its files, and what is none is refused with what it is."""

import errno
from pathlib import Path

import pytest

from app.artifacts import export
from app.artifacts.export import check_folder, export_stamp, identify_export
from app.errors import UnusablePolicy


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """As TF-Agents' own saver writes it, without policy.json."""
    folder = tmp_path / "policy"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")
    return folder


def test_without_a_manifest_the_graph_and_the_variables_are_its_files(plain: Path) -> None:
    (plain / "fingerprint.pb").write_bytes(b"of no effect")
    found = identify_export(plain)
    assert found.manifest is None
    assert list(found.files) == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


def test_the_digest_is_that_of_its_bytes_wherever_it_lies(plain: Path, tmp_path: Path) -> None:
    before = identify_export(plain).digest
    moved = plain.rename(tmp_path / "elsewhere")
    assert identify_export(moved).digest == before
    (moved / "variables" / "variables.index").write_bytes(b"other")
    assert identify_export(moved).digest != before


@pytest.mark.parametrize("name", ["policy_specs.pbtxt", "assets/vocabulary", "assets/words/vocabulary"])
def test_other_specs_and_assets_are_another_export(plain: Path, name: str) -> None:
    found = [identify_export(plain)]
    (plain / name).parent.mkdir(parents=True, exist_ok=True)
    for content in ("a b", "b a"):
        (plain / name).write_text(content)
        found.append(identify_export(plain))
    assert len({exported.digest for exported in found}) == 3
    assert found[-1].files.keys() - found[0].files.keys() == {name}


def test_a_graph_without_variables_is_an_export(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert list(identify_export(tmp_path).files) == ["saved_model.pb"]


def test_a_manifest_that_cannot_be_used_is_an_incomplete_export(plain: Path) -> None:
    (plain / "policy.json").write_text('{"format": 0}')
    with pytest.raises(UnusablePolicy, match=r"policy is no complete export: policy.json has format 0, expected"):
        identify_export(plain)


def test_a_file_that_cannot_be_read_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(plain / "saved_model.pb"))

    monkeypatch.setattr(export, "hash_files", fail)
    with pytest.raises(UnusablePolicy, match=r"policy cannot be read: .*saved_model.pb: Input/output error"):
        identify_export(plain)


def test_a_folder_that_is_no_export_is_refused_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnusablePolicy, match="it is a model of Keras"):
        check_folder(tmp_path)


def test_a_link_that_leads_nowhere_is_refused_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "policy").symlink_to("nowhere")
    with pytest.raises(UnusablePolicy, match=r"policy is a link that leads nowhere \(nowhere\)"):
        check_folder(tmp_path / "policy")


def test_a_link_to_an_export_is_one(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(plain)
    check_folder(tmp_path / "link")
    assert identify_export(tmp_path / "link").digest == identify_export(plain).digest


@pytest.mark.parametrize(
    "name",
    [
        "saved_model.pb",
        "policy.json",
        "policy_specs.pbtxt",
        "variables/variables.index",
        "assets/vocabulary",
        "serving/variables/x",
        "serving/assets/vocabulary",
    ],
)
def test_the_stamp_changes_with_each_file_that_counts(plain: Path, name: str) -> None:
    stamps = [export_stamp(plain)]
    assert export_stamp(plain) == stamps[0]
    (plain / name).parent.mkdir(parents=True, exist_ok=True)
    for content in (b"something", b"something longer"):
        (plain / name).write_bytes(content)
        stamps.append(export_stamp(plain))
    assert len(set(map(str, stamps))) == 3


def test_a_folder_that_is_not_there_has_a_stamp_that_changes_when_it_comes(tmp_path: Path) -> None:
    before = export_stamp(tmp_path / "policy")
    (tmp_path / "policy").mkdir()
    assert export_stamp(tmp_path / "policy") != before
