"""Runs the functions of a .tflite file by LiteRT's C interface, which is called without Python's lock.

For large files: the usual interpreter packs their weights while it holds that lock, 0.6 ms for each MB in which no
other request is answered. Answers are the same to the last bit, as both run the same operations. A call costs some
20 µs more, which does not show beside that of large matrices.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Mapping
from ctypes import byref, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_void_p
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.base import InputRefused
from app.engine.noise import NOISE_INPUTS
from app.engine.tflite import Named, named_in
from app.wire.tensors import Arrays

_PACKAGE = "ai-edge-litert"
# The interface differs between versions of the library: these are those that this module knows.
_VERSIONS = ("2.3.0",)
_CPU, _READ, _WRITE, _HOST_MEMORY = 1, 0, 1, 1
_ALIGNED = 64
_NOTHING = 0xA5
# How LiteRT numbers dtypes.
_DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
    10: np.float16,
    11: np.float64,
    16: np.uint32,
    17: np.uint16,
}
_MOST_AXES = 8


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", c_uint, 7),
        ("has_strides", c_uint, 1),
        ("dimensions", c_int32 * _MOST_AXES),
        ("strides", c_uint32 * _MOST_AXES),
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of a tensor."""
        return tuple(self.dimensions[: self.rank])


class _Type(ctypes.Structure):
    _fields_ = (("element", c_int32), ("layout", _Layout))


@cache
def is_known() -> bool:
    """Whether the library is there in a version whose interface is known."""
    return version(_PACKAGE) in _VERSIONS and _path().is_file()


def _path() -> Path:
    spec = importlib.util.find_spec("ai_edge_litert")
    return Path(spec.origin if spec and spec.origin else "").with_name("libLiteRt.so")


class _Library:
    """The library, and an environment of it: both stay for as long as the process."""

    def __init__(self) -> None:
        self._functions = ctypes.CDLL(str(_path()))
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = c_void_p
        self.environment = self.made("LiteRtCreateEnvironment", 0, None)

    def call(self, name: str, *args: Any) -> None:
        """Calls a function; raises RuntimeError with what it says."""
        if status := getattr(self._functions, name)(*args):
            raise RuntimeError(f"{name} fails with status {status}")

    def made(self, name: str, *args: Any) -> c_void_p:
        """What a function makes, which its last argument points to."""
        made = c_void_p()
        self.call(name, *args, byref(made))
        return made

    def number(self, name: str, *args: Any) -> int:
        """A number that a function gives."""
        number = c_size_t()
        self.call(name, *args, byref(number))
        return number.value

    def text(self, name: str, *args: Any) -> str:
        """A text that a function gives."""
        text = c_char_p()
        self.call(name, *args, byref(text))
        return (text.value or b"").decode()

    def destroy(self, kind: str, handle: c_void_p) -> None:
        """Gives back what was made."""
        getattr(self._functions, f"LiteRtDestroy{kind}")(handle)

    def options(self) -> c_void_p:
        """Options of a model: one core, as a pool of threads would wait actively for its next call."""
        options = self.made("LiteRtCreateOptions")
        self.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        # Which it frees itself.
        text = c_void_p(self._libc.strdup(b"num_threads = 1\n"))
        threads = self.made("LiteRtCreateOpaqueOptions", b"xnnpack", text, ctypes.cast(self._libc.free, c_void_p))
        self.call("LiteRtAddOpaqueOptions", options, threads)
        return options


_library = cache(_Library)


class LargeModel:
    """One file. `functions`: by name; their calls may not overlap.

    Raises:
      ValueError: the file is no model that LiteRT can run, or has a dtype or a shape that is not known here.
    """

    def __init__(self, file: Path) -> None:
        self.library = library = _library()
        self._made: list[tuple[str, c_void_p]] = []
        self.functions: dict[str, LargeFunction] = {}
        try:
            model = library.made("LiteRtCreateModelFromFile", library.environment, str(file).encode())
            self._made.append(("Model", model))
            options = library.options()
            self._made.append(("Options", options))
            self.handle = library.made("LiteRtCreateCompiledModel", library.environment, model, options)
            self._made.append(("CompiledModel", self.handle))
            named = named_in(file)
            for number in range(library.number("LiteRtGetNumModelSignatures", model)):
                function = LargeFunction(self, library.made("LiteRtGetModelSignature", model, c_size_t(number)), named)
                function.number = c_size_t(number)
                self.functions[function.name] = function
        except RuntimeError as error:
            raise ValueError(f"no model that LiteRT can run: {error}") from error

    def __del__(self) -> None:
        for kind, handle in reversed(self._made):
            self.library.destroy(kind, handle)
        for function in self.functions.values():  # the model knows where they lie
            function.give_back(all_of_it=True)


class LargeFunction:
    """One function of the file. `number`: of the function in it.

    Args:
      model: the file.
      signature: the library's handle of the function.
      named: the numbers of the tensors of each function. The library knows one name of each.
    """

    number = c_size_t(0)

    def __init__(self, model: LargeModel, signature: c_void_p, named: Mapping[str, Named]) -> None:
        self._library = library = model.library
        self._model = model.handle
        self.name = library.text("LiteRtGetSignatureKey", signature)
        self._inputs = self._tensors(signature, "Input")
        self._outputs = self._tensors(signature, "Output")
        takes, gives = named[self.name].inputs, named[self.name].outputs
        if strange := [name for name, _ in self._outputs if name not in gives]:
            raise ValueError(f"{strange[0]} is the library's name of an output, and none of the file's")
        self._same = {n: [o for o in gives if gives[o] == gives[n] and o != n] for n, _ in self._outputs}
        places = {takes[name]: place for place, (name, _) in enumerate(self._inputs)}
        # Inputs that are given back as they are: one buffer stands for both.
        self._passed = {place: places[gives[n]] for place, (n, _) in enumerate(self._outputs) if gives[n] in places}
        self._buffers: tuple[Any, Any] = ((c_void_p * 0)(), (c_void_p * 0)())
        self._kept: list[int] = []
        self._room: list[tuple[int, ...]] = []  # of each input
        self._shapes: list[tuple[int, ...]] = []  # of each output
        self._rows: int | None = None

    def _tensors(self, signature: c_void_p, side: str) -> list[tuple[str, _Type]]:
        """Name and type of each input or output.

        Raises:
          ValueError: it has a dtype that is not known here, or more sizes that are not known than that of the rows.
        """
        library = self._library
        found = []
        for place in range(library.number(f"LiteRtGetNumSignature{side}s", signature)):
            index = c_size_t(place)
            name = library.text(f"LiteRtGetSignature{side}Name", signature, index)
            tensor = library.made(f"LiteRtGetSignature{side}TensorByIndex", signature, index)
            kind = _Type()
            library.call("LiteRtGetRankedTensorType", tensor, byref(kind))
            if kind.element not in _DTYPES or any(size < 0 for size in kind.layout.shape[1:]):
                raise ValueError(f"{name} has a dtype or a shape that is not known here")
            found.append((name, kind))
        return found

    @property
    def noise(self) -> dict[str, int]:
        """The sizes of its inputs that are noise, by name."""
        return {name: kind.layout.shape[-1] for name, kind in self._inputs if name in NOISE_INPUTS}

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes room for inputs of these shapes, all with the same rows; beyond the rows they are always the same."""
        self._rows = None
        for place, (name, _) in enumerate(self._inputs):
            shape = shapes[name]
            self._library.call(
                "LiteRtCompiledModelResizeInputTensorNonStrict",
                self._model, self.number, c_size_t(place), (c_int * len(shape))(*shape), c_size_t(len(shape)),
            )  # fmt: skip
        rows = next((shapes[name][0] for name, kind in self._inputs if kind.layout.shape[:1] == (-1,)), 1)
        self._room = [shapes[name] for name, _ in self._inputs]
        given = [self._buffer(kind, shapes[name]) for name, kind in self._inputs]
        self._shapes = [tuple(rows if size < 0 else size for size in kind.layout.shape) for _, kind in self._outputs]
        outputs = enumerate(zip(self._outputs, self._shapes, strict=True))
        taken = [
            given[self._passed[p]] if p in self._passed else self._buffer(k, shape) for p, ((_, k), shape) in outputs
        ]
        self._kept += set(given + taken)
        # What LiteRT works out beforehand, from constants and sizes, it leaves where it is: that must not look right.
        for place in range(len(taken)):
            if place not in self._passed:
                size = math.prod(self._shapes[place]) * np.dtype(_DTYPES[self._outputs[place][1].element]).itemsize
                self._copy(taken[place], np.full(size, _NOTHING, np.uint8), into=True)
        self._buffers = (c_void_p * len(given))(*given), (c_void_p * len(taken))(*taken)

    def _buffer(self, kind: _Type, shape: tuple[int, ...]) -> int:
        """Memory for a tensor, aligned as LiteRT wants it."""
        wanted = _Type(kind.element, _Layout(len(shape), 0, (c_int32 * _MOST_AXES)(*shape)))
        size = math.prod(shape) * np.dtype(_DTYPES[kind.element]).itemsize
        size = max(1, -(-size // _ALIGNED)) * _ALIGNED
        made = self._library.made(
            "LiteRtCreateManagedTensorBuffer", self._library.environment, _HOST_MEMORY, byref(wanted), c_size_t(size)
        )
        assert made.value is not None
        return made.value

    def give_back(self, all_of_it: bool = False) -> None:
        """Gives back the room that was made for calls before the latest one."""
        used = set() if all_of_it else {buffer for buffers in self._buffers for buffer in buffers}
        for buffer in [buffer for buffer in self._kept if buffer not in used]:
            self._library.destroy("TensorBuffer", c_void_p(buffer))
            self._kept.remove(buffer)

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]], rows: int) -> Arrays:
        """Arrays of so many rows by flattened name in, copies of the outputs out."""
        resized = rows != self._rows
        if resized:
            self.prepare({name: inputs[name].shape for name, _ in self._inputs})
            self._rows = rows
        given, taken = self._buffers
        for (name, kind), shape, buffer in zip(self._inputs, self._room, given, strict=True):
            if inputs[name].shape != shape:  # more than there is room for would be written over something else
                raise InputRefused(f"{name} has the shape {inputs[name].shape}; expected {shape}")
            self._copy(buffer, np.ascontiguousarray(inputs[name], _DTYPES[kind.element]), into=True)
        try:
            self._library.call(
                "LiteRtRunCompiledModel",
                self._model, self.number, c_size_t(len(given)), given, c_size_t(len(taken)), taken,
            )  # fmt: skip
        except RuntimeError as error:  # a look-up outside its table, say: with other inputs it has been seen to run
            self._rows = None
            raise InputRefused(str(error)) from error
        if resized:
            self.give_back()
        outputs: Arrays = {}
        for (name, kind), buffer, shape in zip(self._outputs, taken, self._shapes, strict=True):
            outputs[name] = np.empty(shape, _DTYPES[kind.element])
            self._copy(buffer, outputs[name], into=False)
            outputs |= {other: outputs[name].copy() for other in self._same[name]}
        return outputs

    def _copy(self, buffer: int, array: np.ndarray[Any, Any], into: bool) -> None:
        """Copies an array into a buffer, or out of it."""
        place = c_void_p()
        self._library.call("LiteRtLockTensorBuffer", c_void_p(buffer), byref(place), _WRITE if into else _READ)
        source, destination = (array.ctypes.data, place) if into else (place, array.ctypes.data)
        ctypes.memmove(destination, source, array.nbytes)
        self._library.call("LiteRtUnlockTensorBuffer", c_void_p(buffer))
