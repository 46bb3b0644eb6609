"""The record of one session, and its form as bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np

from app.inputs.options import Options
from app.wire.tensors import Array

# Python's objects around the arrays and texts of one record, roughly.
_OVERHEAD_BYTES = 1200
_BYTES_PER_ARRAY = 150

# NumPy evaluates names of dtypes, and a size of -1: any program may have written what is read.
_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
_DTYPES = {dtype.str: dtype for dtype in map(np.dtype, _NAMES.split())}
_MOST_DIMENSIONS = 32
_LARGEST = 2**31


class Answer(msgspec.Struct, frozen=True):
    """An answer as it was sent."""

    media_type: str
    body: bytes


class Run(msgspec.Struct, frozen=True):
    """The part of a record that stays the same from the start of a session to its end.

    `policy` differs for policies of other inputs, which may have had the same name before. `incarnation`: another
    one for each start, so that with the step it differs for all records of an id. `retained`: the digest of the
    weights that it started with and keeps; None where it follows every swap. `recorded`: whether its
    steps become experience. `arm`: the digest of the canary that it belongs to; "" where that is none.
    """

    policy: str
    incarnation: str
    run_id: str
    rows: int
    batched: bool
    mode: Literal["sample", "greedy"] | None
    seed: int | None
    log_prob: bool
    retained: str | None = None
    recorded: bool = False
    arm: str = ""

    def joined(self, options: Options) -> Options:
        """Returns what a step asks for, and where it asks for nothing, what the session does."""
        if self.mode is None and self.seed is None and not self.log_prob:
            return options
        return replace(
            options,
            mode=self.mode if options.mode is None else options.mode,
            seed=self.seed if options.seed is None else options.seed,
            log_prob=self.log_prob or options.log_prob,
        )


class Sums(msgspec.Struct, frozen=True, eq=False):
    """What is known of the episodes that a session is in, while the canary of this digest is tried.

    `rows`: [rows, 2] float64, see `app.traffic.sums.followed`.
    """

    canary: str
    rows: np.ndarray  # type: ignore[type-arg]


class Record(msgspec.Struct, frozen=True, eq=False):
    """A session after its step `step`; never changed, but followed by another one.

    `state`: [rows, …] by the names that `action` takes it by. `ended`: [rows] booleans, where the last step type was
    LAST; None where it was nowhere. `event`: what is recorded of the step, where other servers may have to write it
    too, and `place`: of the folder that it was written in. `sums`: None where the policy has no canary.
    """

    run: Run
    step: int
    state: dict[str, np.ndarray]  # type: ignore[type-arg]  # msgspec takes the plain class
    ended: np.ndarray | None  # type: ignore[type-arg]
    version: str
    train_step: int
    answer: Answer
    event: bytes = b""
    place: str = ""
    sums: Sums | None = None

    @property
    def size(self) -> int:
        """The memory that it takes, in bytes."""
        size = _OVERHEAD_BYTES + len(self.answer.body) + len(self.event)
        for array in self.state.values():
            size += _BYTES_PER_ARRAY + array.nbytes
        if self.sums is not None:
            size += _BYTES_PER_ARRAY + self.sums.rows.nbytes
        return size if self.ended is None else size + _BYTES_PER_ARRAY + self.ended.nbytes

    def to_bytes(self) -> bytes:
        """Returns the record as bytes, for `from_bytes`."""
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Reads the record in `data`; raises msgspec.DecodeError where that is not what `to_bytes` makes."""
        try:
            return _DECODER.decode(data)
        except RecursionError:
            raise msgspec.DecodeError("it is nested too deeply") from None


def described(id_: str, record: Record) -> dict[str, Any]:
    """Returns what is stored of a session, for a person."""
    return {
        "id": id_,
        "run_id": record.run.run_id,
        "step": record.step,
        "rows": record.run.rows if record.run.batched else None,
        "weights": "latest" if record.run.retained is None else "episode",
        "version": record.version,
        "train_step": record.train_step,
    }


class _Array(msgspec.Struct, array_like=True):
    dtype: str
    shape: list[int]
    data: bytes


def _to_plain(array: Any) -> _Array:
    if not isinstance(array, np.ndarray):
        raise NotImplementedError
    return _Array(array.dtype.str, list(array.shape), array.tobytes())


def _from_plain(_: type, plain: Any) -> Array:
    found = msgspec.convert(plain, _Array)
    dtype = _DTYPES.get(found.dtype)
    if dtype is None or len(found.shape) > _MOST_DIMENSIONS or any(not 0 <= size <= _LARGEST for size in found.shape):
        raise msgspec.ValidationError(f"no array is {found.dtype[:20]!r} {found.shape[:8]}")
    if math.prod(found.shape) * dtype.itemsize != len(found.data):
        raise msgspec.ValidationError(f"an array {found.dtype} {found.shape} of {len(found.data)} bytes")
    return np.frombuffer(found.data, dtype).reshape(found.shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_DECODER = msgspec.msgpack.Decoder(Record, dec_hook=_from_plain)
