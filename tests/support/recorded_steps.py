"""Steps of sessions as events, without a server; and a row log in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.batching.rule import Job, Result
from app.experience.event import Who, as_copy
from app.experience.journal import JournalWriter
from app.experience.layout import Layout
from app.inputs.options import Options
from saver.artifact import Leaf
from tests.support.specs import policy_spec

FIRST, MID, LAST = 0, 1, 2
SPEC = policy_spec(Leaf("0/observation", "float32", (2,)))
LAYOUT = Layout(SPEC)


def who(session: str = "s", incarnation: str = "one") -> Who:
    return Who(session, "run", incarnation)


def event(step: int, types: list[int] | None = None) -> bytes:
    """The record of a step, in which all values are made of its number."""
    types = types or [FIRST if step == 0 else MID]
    rows = len(types)
    inputs = {
        "0/step_type": np.array(types, np.int32),
        "0/observation": np.full((rows, 2), step, np.float32),
        "0/reward": np.full(rows, 10 * step, np.float32),
        "0/discount": np.full(rows, 0.5, np.float32),
    }
    result = Result({"action": np.full(rows, step % 2, np.int64)}, f"v{step}", step, "d")
    return LAYOUT.event(step, Options(), Job("action", inputs, rows), result)


def write(
    journal: JournalWriter,
    step: int,
    session: str = "s",
    types: list[int] | None = None,
    incarnation: str = "one",
    *,
    copied: bool = False,
) -> None:
    """Writes a step as a worker does. `copied`: as one that another machine has written."""
    record = event(step, types)
    journal.write(as_copy(record) if copied else record, session, who(session, incarnation), f"v{step}")


class RowsInMemory:
    """Keeps rows as `RowLog` does. `restarted`: as another process finds it."""

    def __init__(self) -> None:
        self.consumed: dict[str, int] = {}
        self.pairing = b""
        self.rows: list[dict[str, Any]] = []
        self.error: OSError | None = None
        self.appends = 0

    def append(self, rows: Mapping[str, Any], consumed: dict[str, int], pairing: bytes | None = None) -> None:
        if self.error is not None:
            raise self.error
        lists = {name: values if isinstance(values, list) else values.tolist() for name, values in rows.items()}
        self.rows += [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        self.consumed = dict(consumed)
        self.pairing = self.pairing if pairing is None else pairing
        self.appends += 1

    def steps(self, session: str | None = None) -> list[tuple[str, int, int]]:
        return [(r["session"], r["row"], r["step"]) for r in self.rows if session in (None, r["session"])]
