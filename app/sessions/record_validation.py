"""Whether a record, which came from a store that others can write to, is one of the sessions of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.sessions.record import Record
from app.wire.codecs import JSON, MSGPACK
from app.wire.tensors import Array, show
from saver.artifact import Leaf

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Fitting:
    """The shape of the records of a policy's sessions. `state`: leaves by the names that `action` takes it by."""

    identity: str
    state: Mapping[str, Leaf]

    def misfit(self, record: Record) -> str:
        """Returns what is wrong with a record; empty where it fits, or is another policy's: `Episodes` refuses that."""
        run = record.run
        if run.policy != self.identity:
            return ""
        if run.rows < 0 or (run.rows != 1 and not run.batched):
            return f"{run.rows} rows, {'a batch' if run.batched else 'no batch'}"
        if not 0 <= record.step <= _LARGEST or not 0 <= (run.seed or 0) <= _LARGEST:
            return f"step {record.step}, seed {run.seed}"
        if record.answer.media_type not in (JSON.media_type, MSGPACK.media_type):
            return f"an answer of type {show(record.answer.media_type)}"
        if record.state.keys() != self.state.keys():
            return f"a state of {sorted(record.state)[:5]}, and not of {sorted(self.state)[:5]}"
        ended = record.ended
        if ended is not None and (ended.dtype != bool or ended.shape != (run.rows,)):
            return f"ended is {ended.dtype} {ended.shape}"
        sums = None if record.sums is None else record.sums.rows
        if sums is not None and (sums.dtype != np.float64 or sums.shape != (run.rows, 2)):
            return f"its returns are {sums.dtype} {sums.shape}"
        return next((text for name in self.state if (text := self._misfit(name, record.state[name], run.rows))), "")

    def _misfit(self, name: str, array: Array, rows: int) -> str:
        leaf = self.state[name]
        fits = len(array.shape) == 1 + len(leaf.shape) and array.shape[0] == rows
        fits = fits and all(b in (None, a) for a, b in zip(array.shape[1:], leaf.shape, strict=True))
        if array.dtype != leaf.storage or not fits:
            return f"{name} is {array.dtype} {array.shape}, and not {leaf.dtype} {(rows, *leaf.shape)}"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} is not finite"
        return ""
