"""A layer that takes some 20 ms for one row, on whatever machine this is: the engine call of an overloaded server."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

CALL_S = 0.020
_ROWS, _UNITS = 128, 256
_TRIAL = 8


class Multiplications(tf.keras.layers.Layer):  # type: ignore[misc]
    """A row of floats, spread over a matrix that is multiplied with the same weights `times` times: work, few bytes."""

    def __init__(self, times: int, **options: Any) -> None:
        super().__init__(**options)
        self._times = times

    def get_config(self) -> dict[str, Any]:
        """Networks copy their layers."""
        return {**super().get_config(), "times": self._times}

    def build(self, _: Any) -> None:
        """The weights."""
        self.kernel = self.add_weight("kernel", (_UNITS, _UNITS), initializer="orthogonal")

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        """The means of the last matrix's columns."""
        ramp = tf.reshape(tf.linspace(0.5, 1.5, _ROWS * _UNITS), (1, _ROWS, _UNITS))
        matrix = tf.reduce_sum(observation, -1)[:, None, None] * ramp
        for _ in range(self._times):
            matrix = tf.tanh(tf.reshape(tf.matmul(tf.reshape(matrix, (-1, _UNITS)), self.kernel), (-1, _ROWS, _UNITS)))
        return tf.reduce_mean(matrix, 1)


def multiplications() -> Multiplications:
    """As many of them as take CALL_S here, by a trial with a few."""
    return Multiplications(max(1, round(_TRIAL * CALL_S / _seconds_of(Multiplications(_TRIAL)))))


def _seconds_of(layer: Multiplications) -> float:
    """A call of it with LiteRT: the shortest of several, in which nothing else was done."""
    function = tf.function(layer.__call__, input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], layer)
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.full((1, 4), 0.1, np.float32))
    took = []
    for _ in range(21):
        began = time.perf_counter()
        interpreter.invoke()
        took.append(time.perf_counter() - began)
    return min(took)
