"""Where each value of a checkpoint lies in its files, to read large ones without TensorFlow's reader.

That gets memory anew for each value, in small pages: on a virtual machine it takes 64 ms for 50 MB, where reading into
memory that is there takes 10 (docs/decisions/0039). The index is a table in LevelDB's format, whose values are
TensorFlow's `BundleEntryProto`.
"""

from __future__ import annotations

import math
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

# The end of a table: where its index lies, in numbers of variable size, and a mark.
_FOOTER_BYTES, _MARK = 48, 0xDB4775248B80FB57
_PLAIN = 0
# Values of fewer bytes are not worth it.
LARGE_BYTES = 1 << 20
# What TensorFlow wants of memory that it takes as it is (EIGEN_MAX_ALIGN_BYTES).
ALIGNED = 64


class TensorFiles:
    """The files of a checkpoint whose values have this `prefix`; nothing of them is kept open.

    Raises:
      ValueError: the index is in a form that is not known here.
      OSError: it cannot be read.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        try:
            entries = dict(_table(Path(f"{prefix}.index").read_bytes()))
            header = BundleHeaderProto.FromString(entries.pop(b"", b""))
            self._entries = {key: BundleEntryProto.FromString(value) for key, value in entries.items()}
        except (IndexError, DecodeError) as error:
            raise ValueError("its index is damaged") from error
        if header.endianness != BundleHeaderProto.LITTLE:
            raise ValueError("its numbers are those of another kind of machine")
        self._shards = header.num_shards

    def holds(self, key: str, size: int) -> bool:
        """Whether a value of so many bytes is there, all of it and in one piece: its shape may be anything.

        Raises:
          OSError: its file cannot be looked at.
        """
        entry = self._entries.get(key.encode())
        if entry is None or entry.slices or entry.size != size:
            return False
        return entry.offset + size <= self._file_of(entry).stat().st_size

    def read(self, key: str, into: np.ndarray[Any, Any]) -> None:
        """Reads a value that these files hold into an array of its shape and dtype. Its checksum is not compared.

        Raises:
          ValueError: it is not all there any more.
          OSError: it cannot be read.
        """
        entry = self._entries[key.encode()]
        left = into.reshape(-1).view(np.uint8)
        with self._file_of(entry).open("rb", buffering=0) as file:
            file.seek(entry.offset)
            while left.size:
                if not (count := file.readinto(left.data)):
                    raise ValueError(f"{key} is not all there any more")
                left = left[count:]

    def _file_of(self, entry: BundleEntryProto) -> Path:
        return Path(f"{self._prefix}.data-{entry.shard_id:05}-of-{self._shards:05}")


class Room:
    """Memory for a large value of a copy, and for the next one when nothing uses that any more.

    To get memory from the system takes a virtual machine up to six times as long as to read a file into it.
    """

    def __init__(self) -> None:
        self.give_back()
        self._array: Callable[[], Any] = lambda: None

    def give_back(self) -> None:
        """Keeps no memory: the next array gets new one."""
        self._memory = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array as TensorFlow can take it without copying it; in new memory while the last one is in use."""
        size = math.prod(shape) * dtype.itemsize
        if self._array() is not None or len(self._memory) != size + ALIGNED:
            self._memory = np.empty(size + ALIGNED, np.uint8)  # NumPy asks for large pages
        start = -self._memory.ctypes.data % ALIGNED
        array = self._memory[start : start + size].view(dtype).reshape(shape)
        self._array = weakref.ref(array)
        return array


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table."""
    footer = data[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != _MARK:
        raise ValueError("it is no table")
    at = 0
    for _ in range(2):  # of what describes the table, which is empty
        _, at = _number(footer, at)
    for _, handle in _block(data, footer[at:]):
        yield from _block(data, handle)


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that a handle leads to: a key has its first bytes in common with the one before."""
    offset, at = _number(handle, 0)
    size, _ = _number(handle, at)
    block = data[offset : offset + size]
    if len(block) < size or size < 4 or data[offset + size] != _PLAIN:
        raise ValueError("a block of it is compressed")
    (restarts,) = struct.unpack("<I", block[-4:])
    at, end, key = 0, size - 4 * (restarts + 1), b""
    while at < end:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
