"""docs/policies.md says of each kind what its export says."""

import re

from saver.artifact import read_policy_manifest
from tests.server import ROOT
from tests.zoo.exported import Exports
from tests.zoo.kinds import KINDS
from tests.zoo.table import row

PAGE = (ROOT / "docs" / "policies.md").read_text()


def test_every_kind_has_its_row() -> None:
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE)) == sorted(KINDS)


def test_rows_are_what_the_exports_say(zoo: Exports, kinds: list[str]) -> None:
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
    reasons = {reason: int(number) for number, reason in re.findall(r"^(\d+)\. (.*)$", PAGE, re.MULTILINE)}
    for name in kinds:
        assert row(KINDS[name], read_policy_manifest(zoo[name].folder), dict(reasons)) == rows[name]
