"""docs/reference/policies.md says of each kind what its export says, and what would run it."""

import re
from pathlib import Path

import pytest

from saver.artifact import read_policy_manifest
from tests.support.server import ROOT
from tests.zoo.engines import engine_of
from tests.zoo.exported import Exports
from tests.zoo.kinds import KINDS
from tests.zoo.table import PROVED, engines_in, row, total

PAGE = (ROOT / "docs" / "reference" / "policies.md").read_text()
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
# Those that the page says another processor may run with the other engine.
BY_PROCESSOR = set(re.findall(r"`(.+?)`", next(line for line in PAGE.splitlines() if line.startswith("Processors "))))
REASONS = {reason: int(number) for number, reason in re.findall(r"^(\d+)\. (.*)$", PAGE, re.MULTILINE)}


def test_every_kind_has_its_row() -> None:
    assert sorted(ROWS) == sorted(KINDS)


def test_total_is_that_of_the_rows() -> None:
    assert total(engines_in(PAGE)) in PAGE
    assert sum(engine != "litert" for engine in engines_in(PAGE).values()) <= 12


def test_rows_are_what_the_exports_say(zoo: Exports, kinds: list[str]) -> None:
    for name in kinds:
        cell = ROWS[name].split(" | ")[2]
        number = re.search(r"\((\d+)\)$", cell)
        why = PROVED if number is None else next(r for r, n in REASONS.items() if n == int(number[1]))
        engine = (engines_in(PAGE)[name], why)
        assert row(KINDS[name], read_policy_manifest(zoo[name].folder), engine, dict(REASONS)) == ROWS[name]


@pytest.mark.timeout(3600)
def test_engines_are_what_the_builder_chooses(zoo: Exports, full: bool, tmp_path: Path) -> None:
    for name in KINDS if full else ("dqn-greedy", "random-discrete", "ou-noise"):
        engine = engine_of(zoo[name], tmp_path / name)
        if name in BY_PROCESSOR:
            print(f"{name}: {engine}")
        else:
            assert row(KINDS[name], read_policy_manifest(zoo[name].folder), engine, dict(REASONS)) == ROWS[name]
