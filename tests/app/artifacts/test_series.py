"""Of a folder of exports that differ by a number the newest whole one is served."""

from pathlib import Path

import pytest

from app.artifacts.series import newest_of_series, resolved, stamp_with_series
from app.settings import PolicyFolder


def save(parent: Path, name: str, specs: str | None = "specs") -> Path:
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_text(name)
    if specs is not None:
        (folder / "policy_specs.pbtxt").write_text(specs)
    return folder


def test_the_newest_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for name in ("policy_900", "policy_1000", "policy_20"):
        save(tmp_path, name)
    assert newest_of_series(tmp_path) == tmp_path / "policy_1000"


def test_an_export_that_is_still_being_written_is_not_the_newest_yet(tmp_path: Path) -> None:
    save(tmp_path, "policy_1")
    save(tmp_path, "policy_2", specs=None)
    assert newest_of_series(tmp_path) == tmp_path / "policy_1"


@pytest.mark.parametrize(
    "names", [["policy", "collect_policy", "greedy_policy"], ["policy_1", "collect_2"], ["policy_1", "policy"], []]
)
def test_exports_of_different_policies_are_no_series(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path, name)
    assert newest_of_series(tmp_path) is None


def test_exports_of_different_specs_are_no_series(tmp_path: Path) -> None:
    save(tmp_path, "policy_1", "three numbers")
    save(tmp_path, "policy_2", "four numbers")
    assert newest_of_series(tmp_path) is None


def test_exports_that_are_all_unfinished_are_no_series_yet(tmp_path: Path) -> None:
    save(tmp_path, "policy_1", specs=None)
    assert newest_of_series(tmp_path) is None


def test_an_export_is_no_series_whatever_else_lies_in_it(tmp_path: Path) -> None:
    save(tmp_path, ".")
    save(tmp_path, "policy_1")
    assert newest_of_series(tmp_path) is None


def test_a_policy_of_a_series_has_the_newest_folder_and_keeps_its_name(tmp_path: Path) -> None:
    newest = save(tmp_path, "policy_7")
    assert resolved(PolicyFolder("p", tmp_path)) == PolicyFolder("p", newest, series=tmp_path)


def test_a_policy_that_is_no_series_stays_as_it_was_named(tmp_path: Path) -> None:
    named = PolicyFolder("p", save(tmp_path, "policy"))
    assert resolved(named) is named


def test_the_stamp_changes_with_each_step_of_saving_the_next_export(tmp_path: Path) -> None:
    save(tmp_path, "policy_1")
    stamps = [stamp_with_series(tmp_path)]
    assert stamp_with_series(tmp_path) == stamps[0]
    (tmp_path / "policy_2").mkdir()
    stamps.append(stamp_with_series(tmp_path))
    save(tmp_path, "policy_2", specs=None)
    stamps.append(stamp_with_series(tmp_path))
    save(tmp_path, "policy_2")
    stamps.append(stamp_with_series(tmp_path))
    assert all(one != other for number, one in enumerate(stamps) for other in stamps[:number])


def test_of_thousands_of_exports_the_newest_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.artifacts.series._MOST_LOOKED_AT", 2)
    for number in (1, 2, 10):
        save(tmp_path, f"policy_{number}")
    before = stamp_with_series(tmp_path)
    save(tmp_path, "policy_1", "others")  # one of the two that come first as text, and the oldest
    assert stamp_with_series(tmp_path) == before
    save(tmp_path, "policy_10", "others")
    assert stamp_with_series(tmp_path) != before
