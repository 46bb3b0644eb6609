"""The values in a checkpoint's files, by the names that they have in its object graph.

TensorFlow stores a variable once, under one of its names: which one depends on who saved it. A variable that is both
a weight and metadata is `metadata/epsilon` in what `save` writes, and `model_variables/0` in what TF-Agents'
`save_checkpoint` does. The object graph beside the values has all names, so that comparing by it compares variables.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from app.engine.savedmodel.tensor_files import LARGE_BYTES, Room, TensorFiles
from app.errors import SwapRefused
from saver.artifact.literal_path import literal_path

TRAIN_STEP = "train_step"
WEIGHTS = "model_variables"
METADATA = "metadata"
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# What PolicySaver promises to name. Other names of the same variables are the policy's own business.
_PROMISED = (WEIGHTS, METADATA, TRAIN_STEP)
_POLICY = "policy"
# What a file has as it lies in memory.
_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Stored:
    """One value: its key in the files, all its names in the object graph, its shape and its dtype."""

    key: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """The name that messages use: that of a weight where it is one."""
        return min(self.names, key=lambda name: (not name.startswith(WEIGHTS), name))

    @property
    def is_large(self) -> bool:
        """Whether it is numbers as they lie in memory, and many."""
        return self.dtype in _NUMBERS and self.bytes >= LARGE_BYTES

    @property
    def bytes(self) -> int:
        """How many it takes, where its dtype is NumPy's."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def is_weight(self) -> bool:
        """Whether the policy's answers may depend on it. The train step and metadata that are nothing else do not."""
        return not all(name == TRAIN_STEP or name.startswith(f"{METADATA}/") for name in self.names)


class StoredValues:
    """The values of the checkpoint, or of the export, in `folder`.

    `kept`: those that have been read, by their keys; None where none are kept. `checked`: whether the files are known
    to be what was saved: large values are then read without TensorFlow's reader, which compares their checksums.

    Raises:
      SwapRefused: its index cannot be read.
    """

    def __init__(self, folder: Path, checked: bool = False) -> None:
        self.kept: dict[str, Any] | None = None
        self.checked = checked
        self._folder = folder
        # As long as the reader may open files.
        with contextlib.ExitStack() as stack:
            self._literal = stack.enter_context(literal_path(folder))
            self._reader = self._opened()
            weakref.finalize(self, stack.pop_all().close)

    def _opened(self) -> Any:
        try:
            return tf.train.load_checkpoint(prefix(self._literal))
        except MemoryError as error:
            reason = f"one of its blocks has no room in memory: {_line(error, self._literal)}"
        except Exception as error:  # TensorFlow has many names for a file that is missing or damaged
            raise SwapRefused(f"its index cannot be read: {_line(error, self._literal)}") from None
        # Raised out here, without the MemoryError that would have it tried again for ever: an index is small, and it is
        # the file that lies about the size of a block, not the machine that has too little memory.
        raise SwapRefused(f"its index cannot be read: {reason}")

    def read(self, stored: Stored) -> Any:
        """The value; read once, where what has been read is `kept`.

        Raises:
          SwapRefused: it cannot be read.
        """
        if self.kept is None:
            return self._read(stored, Room())
        if stored.key not in self.kept:
            self.kept[stored.key] = self._read(stored, Room())
        return self.kept[stored.key]

    def take(self, stored: Stored, room: Room) -> Any:
        """The value, for somebody who may change it; in `room` where it can be read into that.

        Raises:
          SwapRefused: it cannot be read.
        """
        kept = (self.kept or {}).pop(stored.key, None)
        if kept is None:
            return self._read(stored, room)
        room.give_back()
        return kept

    def _read(self, stored: Stored, room: Room) -> Any:
        value = self._read_into(room, stored) if self.checked and stored.is_large else None
        return self._tensor(stored.key, stored.name) if value is None else value

    def _read_into(self, room: Room, stored: Stored) -> np.ndarray[Any, Any] | None:
        """The value, read from its file; None where that cannot be."""
        try:
            if not self._files.holds(stored.key, stored.bytes):
                return None
            array = room.array(stored.shape, np.dtype(stored.dtype))
            self._files.read(stored.key, array)
        except (OSError, ValueError):
            return None  # TensorFlow may know that form, or says what is wrong
        return array

    @cached_property
    def _files(self) -> TensorFiles:
        return TensorFiles(prefix(self._folder))

    @cached_property
    def all(self) -> list[Stored]:
        """Every value, in the order of their names.

        Raises:
          SwapRefused: the object graph cannot be read.
        """
        shapes, dtypes = self._reader.get_variable_to_shape_map(), self._reader.get_variable_to_dtype_map()
        names = self._names(shapes)
        stored = [
            Stored(key, _promised({*names.get(key, ()), _plain(key)}), tuple(shapes[key]), dtypes[key].name)
            for key in shapes
            if key != _GRAPH_KEY
        ]
        return sorted(stored, key=lambda value: value.name)

    @cached_property
    def by_name(self) -> dict[str, Stored]:
        """Every value, by each of its names."""
        return {name: stored for stored in self.all for name in stored.names}

    @property
    def has_names(self) -> bool:
        """Whether there is an object graph: TF1's Saver writes none."""
        return self._graph is not None

    @cached_property
    def below_policy(self) -> bool:
        """Whether `save_checkpoint` wrote it: the object that it saves has the policy for a child, not for itself."""
        if self._graph is None:
            return True
        children = {child.local_name: child.node_id for child in self._graph.nodes[0].children}
        if _POLICY not in children:
            return False
        return any(child.local_name in _PROMISED for child in self._graph.nodes[children[_POLICY]].children)

    @cached_property
    def _graph(self) -> TrackableObjectGraph | None:
        """None where there is none: files of TF1's Saver."""
        if not self._reader.has_tensor(_GRAPH_KEY):
            return None
        graph = TrackableObjectGraph()
        try:
            graph.ParseFromString(self._reader.get_tensor(_GRAPH_KEY))
        except Exception:
            # It lies behind the values: what is wrong with the first of these is reported, where something is.
            for key in sorted(self._reader.get_variable_to_shape_map(), key=lambda key: (key == _GRAPH_KEY, key)):
                self._tensor(key, _plain(key))
            raise SwapRefused("its object graph cannot be read") from None
        return graph

    def _names(self, keys: Iterable[str]) -> dict[str, set[str]]:
        """Key → every name that leads to it from an object, each object reached by its shortest path."""
        if self._graph is None or not self._graph.nodes:
            return {}
        nodes = self._graph.nodes
        stored = {attribute.checkpoint_key for node in nodes for attribute in node.attributes}
        # A look-up table's attribute is stored in several pieces.
        pieces = {whole: [key for key in keys if key == whole or key.startswith(f"{whole}-")] for whole in stored}
        names: dict[str, set[str]] = defaultdict(set)
        paths: dict[int, str] = {0: ""}
        waiting = deque([0])
        if self.below_policy:
            policy = next(child.node_id for child in nodes[0].children if child.local_name == _POLICY)
            paths[policy] = ""
            waiting.append(policy)
        while waiting:
            node_id = waiting.popleft()
            for child in nodes[node_id].children:
                path = f"{paths[node_id]}{child.local_name}"
                for attribute in nodes[child.node_id].attributes:
                    for key in pieces[attribute.checkpoint_key]:
                        names[key].add(path + _rest(key))
                if child.node_id not in paths:
                    paths[child.node_id] = f"{path}/"
                    waiting.append(child.node_id)
        return names

    def _tensor(self, key: str, name: str) -> Any:
        try:
            return self._reader.get_tensor(key)
        except Exception as error:
            raise SwapRefused(f"{name} cannot be read: {_line(error, self._literal)}") from None


def numbers_in(values: Iterable[Stored]) -> int:
    """Returns how many numbers there are in all of these values."""
    return sum(math.prod(stored.shape) for stored in values)


def prefix(folder: Path) -> str:
    """The prefix by which TensorFlow names the checkpoint in `folder`."""
    return str(folder / "variables" / "variables")


def as_train_step(value: Any) -> int:
    """Converts a value to a train step: -1 (unknown) for what is no 64-bit integer; TF-Agents takes any variable."""
    try:
        train_step = int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return train_step if train_step.bit_length() < 64 else -1


def _promised(names: Iterable[str]) -> tuple[str, ...]:
    """The names that PolicySaver promises; all, where it promises none."""
    promised = [name for name in names if name.split("/")[0] in _PROMISED]
    return tuple(sorted(promised or names))


def _plain(key: str) -> str:
    return key.removesuffix(_SUFFIX).removeprefix(f"{_POLICY}/")


def _rest(key: str) -> str:
    """What distinguishes the pieces of a table, and other attributes than a variable's value."""
    return "" if key.endswith(_SUFFIX) else key[key.find("/.ATTRIBUTES/") :]


def _line(error: Exception, folder: Path) -> str:
    """The first line, without the name of a folder that nobody knows."""
    lines = str(error).replace(f"{folder}/", "").strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
