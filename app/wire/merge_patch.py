"""JSON merge patches (RFC 7396) between structures of JSON without null: what has changed, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the patch that makes `after` of `before`; None stands for what is gone. Lists are replaced whole."""
    patch: dict[str, Any] = {}
    for name, new in after.items():
        old = before.get(name)
        if old is new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := difference(old, new):
                patch[name] = inner
        elif old != new:
            patch[name] = new
    patch.update((name, None) for name in before if name not in after)
    return patch


def apply(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Changes `target` in place as the patch says."""
    for name, new in patch.items():
        if new is None:
            target.pop(name, None)
        elif isinstance(new, dict) and isinstance(inner := target.get(name), dict):
            apply(inner, new)
        else:
            target[name] = new
