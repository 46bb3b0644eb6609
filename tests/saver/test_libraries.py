"""A library that is missing is named in one line, before anything is imported."""

import sys

import pytest

from saver import libraries


def test_what_is_installed_passes_and_is_not_imported() -> None:
    before = set(sys.modules)
    libraries.require("numpy", "this")
    assert "this" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        (("numpy", "absent_one"), "saver needs absent_one, not installed here: pip install "),
        (("absent_one", "absent_two"), "saver needs absent_one and absent_two, not installed here: pip install "),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(modules: tuple[str, ...], says: str) -> None:
    with pytest.raises(ImportError) as caught:
        libraries.require(*modules)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert caught.value.name == "absent_one"


def test_a_module_that_was_made_by_hand_counts_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no spec; asking for that of one that is imported is an error of importlib."""
    monkeypatch.setitem(sys.modules, "made_by_hand", type(sys)("made_by_hand"))
    libraries.require("made_by_hand")
