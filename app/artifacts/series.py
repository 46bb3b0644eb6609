"""A folder of exports of one policy, `policy_100`, `policy_200`, …: the newest is served, all are its checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from app.artifacts.export import export_stamp
from app.artifacts.foreign import SPECS_FILE, exports_in
from app.settings import PolicyFolder
from saver.artifact import GRAPH_FILE, natural_order

_NUMBERED = re.compile(r"(.*?)(\d+)")
# Of a folder with thousands the newest show whether something is being saved.
_MOST_LOOKED_AT = 16


def resolved(named: PolicyFolder) -> PolicyFolder:
    """Returns the policy with the newest of its exports for its folder, where a folder of exports was named."""
    newest = newest_of_series(named.folder)
    return named if newest is None else PolicyFolder(named.name, newest, series=named.folder)


def stamp_with_series(folder: Path) -> object:
    """Returns a stamp that changes when the export in a folder does, or one of the exports of a series in it."""
    try:
        below = [path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name)]
    except OSError:
        below = []
    newest = sorted(below, key=lambda path: natural_order(path.name))[-_MOST_LOOKED_AT:]
    return export_stamp(folder), tuple((export_stamp(path), _specs(path)) for path in newest)


def newest_of_series(folder: Path) -> Path | None:
    """Finds the newest whole export in a folder of exports of equal specs whose names differ by the number at the end.

    None for any other folder: one that is an export itself, or has `policy`, `collect_policy` and `greedy_policy` of a
    trainer, which are different policies.
    """
    try:
        if (folder / GRAPH_FILE).exists():
            return None
    except OSError:  # it may not be read, which is reported when the policy is opened
        return None
    whole = [path for path in exports_in(folder) if _specs(path) is not None]
    numbered = [_NUMBERED.fullmatch(path.name) for path in exports_in(folder)]
    if not whole or None in numbered or len({match[1] for match in numbered if match is not None}) > 1:
        return None
    newest = max(whole, key=lambda path: natural_order(path.name))
    return newest if all(_specs(path) == _specs(newest) for path in whole) else None


def _specs(export: Path) -> bytes | None:
    """What it takes and gives, as its saver has written it; None while it has not: this file is its last but one."""
    try:
        return (export / SPECS_FILE).read_bytes()
    except OSError:
        return None
