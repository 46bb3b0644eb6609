"""Runs a policy with LiteRT: a .tflite file of the policy's functions, flat arrays in and out. No TensorFlow.

One interpreter serves calls of every size. A call with other rows than the one before it costs some 5 to 15 µs more,
which is less than padding its inputs would; an interpreter for each size would keep, and pack at each swap, one more
copy of the weights.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from app.artifacts.bundle import RowSharing
from app.engine.base import InputRefused
from app.engine.chunks import check_whole, join, split
from app.engine.large_model import LargeFunction, LargeModel, is_known
from app.engine.noise import NOISE_INPUTS, fresh_inputs, sizes_of
from app.engine.tflite import tensors_read
from app.wire.tensors import Arrays
from saver.artifact import Noise, PolicySpec, leaves
from saver.stderr import hushed

INITIAL_STATE = "get_initial_state"
# More rows go as several calls: so much at once is as fast as can be, and the memory that a call takes stays taken.
MOST_ROWS = 4096
_NO_NOISE = Noise(0, 0)
# Of larger files the weights are packed without Python's lock: see `app.engine.large_model`.
LARGE_BYTES = 8 << 20
# An interpreter repeats, with each call that fails, all that it has said of others, and forgets nothing: after so many
# characters another one takes its place.
_MOST_SAID = 1 << 15
# What has no signature in the file where it is the action itself.
_SAME_AS_ACTION = ("greedy", "sample")


class LiteRTEngine:
    """One interpreter over one file of weights.

    The file has a signature for each function; `greedy` and `sample` have none where they are the action itself.
    A policy that draws and has `sample` has no `action` in it: then `sample` answers that, from fresh noise for every
    row of every call. Another function that draws takes its noise as inputs, and is given fresh one likewise.
    `get_initial_state` takes nothing and gives the first rows of a state whose further rows repeat them.

    `sharing`: which rows may share a call. Where rows depend on each other, all that come are one call, however many.

    Args:
      model: the file; it may be deleted afterwards, but not written to.
      spec: of the policy.
      noise: what its `sample` takes.

    Raises:
      ValueError, RuntimeError: the file is no model that LiteRT can run.
    """

    name = "litert"
    sharing = RowSharing()

    def __init__(self, model: Path, spec: PolicySpec, noise: Noise = _NO_NOISE) -> None:
        self._model, self._functions = _opened(model)
        if not isinstance(self._model, LargeModel):
            self._file = os.open(model, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        names = self._functions.keys()
        self._same = {name: "action" for name in _SAME_AS_ACTION if name not in names}
        self._initial = self._functions[INITIAL_STATE]({}, 1) if INITIAL_STATE in names else {}
        self._batch_size = spec.batch_size
        self._ranks = {
            leaf.name: len(leaf.shape) for nest in (spec.action, spec.state, spec.info) for _, leaf in leaves(nest)
        }
        # The sizes of the noise of each function that is to be given it.
        self._noise = {
            name: sizes for name, one in self._functions.items() if (sizes := one.noise) and name != "sample"
        }
        self._draws = "action" not in names
        if self._draws:
            self._noise["action"] = sizes_of(noise)
        # Of this engine alone, and seeded by the operating system: no two copies or processes draw the same numbers.
        self._generator = np.random.default_rng()
        self._answer = tuple(spec.signatures["action"].outputs)
        # Packs the weights of small files: no request should pay for it.
        shapes = {n: tuple(size or 1 for size in t.shape) for n, t in spec.signatures["action"].inputs.items()}
        shapes |= {n: a.shape for n, a in self._fresh("action", spec.batch_size or 1).items()}
        self._functions["sample" if self._draws else "action"].prepare(shapes)

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Engine.run`."""
        noise = self._noise.get(function)
        if noise is not None and not (noise and noise.keys() <= inputs.keys()):
            return self._drawn(function, inputs)
        rows = len(next(iter(inputs.values())))
        fits = rows <= MOST_ROWS or self.sharing.dependent if self._batch_size is None else rows == self._batch_size
        if not fits:
            return self._in_pieces(function, inputs, rows)
        try:
            outputs = self._functions[self._same.get(function, function)](inputs, rows)
        except InputRefused:
            self._forget()
            raise
        for name, array in outputs.items():
            # Some policies give one value of their info for the whole batch.
            if array.ndim == self._ranks.get(name):
                outputs[name] = np.broadcast_to(array, (rows, *array.shape))
        return outputs

    @property
    def draws(self) -> bool:
        """See `Engine.draws`."""
        return bool(self._noise.get("action"))

    def initial_state(self, rows: int) -> Arrays:
        """See `Engine.initial_state`."""
        return {name: array[np.arange(rows) % len(array)] for name, array in self._initial.items()}

    def _drawn(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """A function with fresh noise; `action` by `sample` where it is left out, without what only `sample` gives."""
        inputs = {**inputs, **self._fresh(function, len(next(iter(inputs.values()))))}
        if function != "action" or not self._draws:
            return self.run(function, inputs)
        outputs = self.run("sample", inputs)
        return {name: outputs[name] for name in self._answer}

    def _fresh(self, function: str, rows: int) -> Arrays:
        return fresh_inputs(self._noise.get(function, {}), rows, self._generator)

    def _in_pieces(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]], rows: int) -> Arrays:
        if self.sharing.whole_batches and self._batch_size:
            check_whole(rows, self._batch_size)
        pieces = split(inputs, self._batch_size) if self._batch_size else _slices(inputs, rows)
        return join([self.run(function, piece) for piece in pieces], rows)

    def _forget(self) -> None:
        """Opens the file again where too much is kept of what calls have failed with."""
        one = next(iter(self._functions.values()))
        if isinstance(one, _Function) and one.errors.length > _MOST_SAID:
            # Where the system has no such name for a file that is gone, the one that is open stays.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._model, self._functions = _opened(Path(f"/proc/self/fd/{self._file}"))


def _opened(file: Path) -> tuple[Any, Mapping[str, _Function | LargeFunction]]:
    """What keeps the file open, and its functions by name."""
    file.open("rb").close()  # its error says what is the matter; LiteRT's does not
    if file.stat().st_size > LARGE_BYTES and is_known():
        with hushed():  # once for each environment it says which accelerators are not there
            model = LargeModel(file)
        return model, model.functions
    interpreter = _interpreter(file)
    read, errors = tensors_read(file), _Errors()
    return interpreter, {name: _Function(interpreter, name, read, errors) for name in interpreter.get_signature_list()}


_greeted = False


def _interpreter(model: Path) -> Any:
    """The first one in a process greets its user on standard error, which no operator asked for."""
    global _greeted
    with contextlib.nullcontext() if _greeted else hushed():
        # A thread pool would wait actively for its next call, on cores that others need.
        interpreter = Interpreter(model_path=str(model), num_threads=1)
        if not _greeted:
            interpreter.allocate_tensors()
    _greeted = True
    return interpreter


class _Errors:
    """What an interpreter says of calls that fail. `length`: of all that it has said, which it repeats each time."""

    def __init__(self) -> None:
        self.length = 0

    def new(self, error: RuntimeError) -> str:
        """Returns the first line of what it says of one."""
        text = str(error)
        lines = (text[self.length :] or text).strip().splitlines()
        self.length = len(text)
        return lines[0][:300] if lines else type(error).__name__


class _Function:
    """One signature of the file: a subgraph with tensors of its own.

    Beneath the public `SignatureRunner`, which takes twice as long for a small policy, and raises the same for an input
    that is refused as for a lack of memory. `noise`: the sizes of its inputs that are noise, by name.
    """

    def __init__(self, interpreter: Any, name: str, read: Sequence[set[int]], errors: _Errors) -> None:
        self.errors = errors
        self._runtime = interpreter._interpreter
        signature = self._runtime.GetSignatureDefs()[name]
        self._subgraph: int = self._runtime.GetSubgraphIndexFromSignature(name)
        self._inputs = [(n, tensor) for n, tensor in signature["inputs"].items() if tensor in read[self._subgraph]]
        self._outputs = list(signature["outputs"].items())
        self._rows: int | None = None
        self.noise = {
            name: int(self._runtime.TensorSize(tensor, self._subgraph)[-1])
            for name, tensor in self._inputs
            if name in NOISE_INPUTS
        }

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes room for inputs of these shapes, all with the same rows; beyond the rows they are always the same."""
        self._rows = None
        for name, tensor in self._inputs:
            self._runtime.ResizeInputTensor(tensor, np.array(shapes[name], np.int32), False, self._subgraph)
        self._runtime.AllocateTensors(self._subgraph)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]], rows: int) -> Arrays:
        """Arrays of so many rows by flattened name in, copies of the outputs out."""
        runtime, subgraph = self._runtime, self._subgraph
        if rows != self._rows:
            try:
                self.prepare({name: inputs[name].shape for name, _ in self._inputs})
            except RuntimeError as error:
                self.errors.new(error)
                raise
            self._rows = rows
        for name, tensor in self._inputs:
            runtime.SetTensor(tensor, inputs[name], subgraph)
        try:
            runtime.Invoke(subgraph)
        except RuntimeError as error:  # a look-up outside its table, say: with other inputs it has been seen to run
            raise InputRefused(self.errors.new(error)) from error
        outputs = {}  # in a loop: a comprehension is a call of its own, for the one output that most have
        for name, tensor in self._outputs:
            outputs[name] = runtime.GetTensor(tensor, subgraph)
        return outputs


def _slices(inputs: Mapping[str, np.ndarray[Any, Any]], rows: int) -> Iterator[Arrays]:
    for start in range(0, rows, MOST_ROWS):
        yield {name: array[start : start + MOST_ROWS] for name, array in inputs.items()}
