"""Runs a policy with TensorFlow: the SavedModel's own functions, flat arrays in and out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from app.artifacts.bundle import RowSharing
from app.engine.base import InputRefused
from app.engine.chunks import check_whole, join, split
from app.engine.savedmodel.tensor_files import Room
from app.errors import Unsupported
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec, leaves
from saver.impure_ops import impurities

# What a graph raises when the values of an input, and not the policy, are to blame.
_INPUT_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.DataLossError,  # bytes that are not what they should be: compressed, or a serialized message
    tf.errors.NotFoundError,  # a name that leads nowhere
)
_NO_PYTHON = re.compile(r"callback.* key=pyfunc_\d+|callback pyfunc_\d+ is not found")
_FUNCTION_NODE = re.compile(r"^\{\{function_node .*?\}\} ?")


@dataclass(frozen=True)
class FlatFunction:
    """A concrete function with named inputs. `by_name`: it is called with keywords, else in the order of `dtypes`."""

    concrete: Any
    dtypes: Mapping[str, tf.DType]
    by_name: bool

    def __call__(self, inputs: Mapping[str, Any]) -> Arrays:
        """Arrays by flattened name in, arrays by flattened name out."""
        tensors = [tf.constant(inputs[name], dtype) for name, dtype in self.dtypes.items()]
        # Beneath the public call, which takes 70 µs more to find out that these are the inputs in their order.
        outputs = self.concrete._call_flat(tensors, self.concrete.captured_inputs)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def on_tensors(self, tensors: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Calls the function with tensors, in the order of `dtypes`, while a graph is traced."""
        outputs = self.concrete(**tensors) if self.by_name else self.concrete(*tensors.values())
        return dict(outputs)

    @classmethod
    def of_signature(cls, signature: Any) -> FlatFunction:
        """A signature of a loaded SavedModel."""
        specs = tf.nest.flatten(signature.structured_input_signature)
        return cls(signature, {s.name: s.dtype for s in specs}, by_name=True)


class TensorFlowEngine:
    """One loaded copy of a SavedModel.

    `model` keeps the variables of its `functions` alive and is what a checkpoint is restored into; `graph` is the
    digest of the export that it was loaded from. `sharing`: which rows may share a call. `generators`: the variables
    with the state of each `tf.random.Generator`. `rooms`: the memory of large variables, by their names.
    """

    name = "tensorflow"
    sharing = RowSharing()
    generators: Sequence[Any] = ()

    def __init__(self, model: Any, functions: Mapping[str, FlatFunction], spec: PolicySpec, graph: str = "") -> None:
        self.model = model
        self.graph = graph
        self.functions = functions
        self.rooms: dict[str, Room] = {}
        self._batch_size = spec.batch_size
        self._ranks = {
            leaf.name: len(leaf.shape) for nest in (spec.action, spec.state, spec.info) for _, leaf in leaves(nest)
        }

    @functools.cached_property
    def draws(self) -> bool:
        """See `Engine.draws`; read off the graph when it is first asked for."""
        return bool(impurities(self.functions["action"].concrete))

    def run(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """See `Engine.run`."""
        try:
            size = 1 if self.sharing.one_row else self._batch_size
            if size is None:
                return self._call(function, inputs)
            rows = len(next(iter(inputs.values())))
            if self.sharing.whole_batches:
                check_whole(rows, size)
            return join([self._call(function, piece) for piece in split(inputs, size)], rows)
        except _INPUT_ERRORS as error:
            _check_no_python(function, error)
            raise InputRefused(_reason(error)) from error
        except Exception as error:
            _check_no_python(function, error)
            raise

    def initial_state(self, rows: int) -> Arrays:
        """See `Engine.initial_state`."""
        if not self.functions["get_initial_state"].concrete.outputs:
            return {}
        if self._batch_size is None:
            if self.sharing.one_row:
                return join([self.functions["get_initial_state"]({"batch_size": 1}) for _ in range(rows)], rows)
            return self.functions["get_initial_state"]({"batch_size": rows})
        calls = -(-rows // self._batch_size)
        return join([self.functions["get_initial_state"]({}) for _ in range(calls)], rows)

    def _call(self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        outputs = self.functions[function](inputs)
        rows = len(next(iter(inputs.values())))
        for name, array in outputs.items():
            # Some policies give one value of their info for the whole batch.
            if array.ndim == self._ranks.get(name):
                outputs[name] = np.broadcast_to(array, (rows, *array.shape))
            elif array.ndim and len(array) != rows and (len(array) != 1 or name in self._ranks):
                # As many as are in what was sent: bytes that are decoded, lines that are split.
                raise InputRefused(f"{name} has {len(array)} rows for {rows} of its inputs")
        return outputs


def _check_no_python(function: str, error: Exception) -> None:
    """Raises Unsupported where the graph has called Python code: only the process that saved it has that."""
    if _NO_PYTHON.search(str(error)):
        raise Unsupported(
            f"{function} runs Python code (numpy_function or py_function), which stayed in the process that saved the "
            "policy: expected TensorFlow operations in its place"
        ) from error


def _reason(error: tf.errors.OpError) -> str:
    """The line above the name of the node: a stack trace may stand before it."""
    lines = (error.message or "").partition("[[{{node")[0].strip().splitlines()
    return _FUNCTION_NODE.sub("", lines[-1])[:300] if lines else type(error).__name__
