"""Cells of recurrent networks, as kernels of their own and as Keras makes them."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.sweep.operation import Operation, one

_GROUP = "recurrent cells"
_RAW = tf.raw_ops

_GATES = tf.constant(np.random.default_rng(6).standard_normal((6, 8)), tf.float32)
_INPUTS = {"x": one(shape=(4,))["x"], "y": tf.TensorSpec([2], tf.float32, "y")}


def _lstm_block(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    zeros = tf.zeros([2])
    return _RAW.LSTMBlockCell(
        x=x, cs_prev=y, h_prev=tf.tanh(y), w=_GATES, wci=zeros, wcf=zeros, wco=zeros, b=tf.zeros([8])
    ).h


def _gru_block(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return _RAW.GRUBlockCell(
        x=x, h_prev=y, w_ru=_GATES[:, :4], w_c=_GATES[:, 4:6], b_ru=tf.zeros([4]), b_c=tf.zeros([2])
    ).h


def _of_layer(cell: Any, states: int) -> Operation:
    """One step of a Keras cell, its weights drawn once."""
    cell.build([None, 4])
    for number, variable in enumerate(cell.weights):
        drawn = np.random.default_rng(number).standard_normal(variable.shape)
        variable.assign(drawn)
    name = f"{type(cell).__name__} of Keras"
    return Operation(
        name, _GROUP, lambda x, y: cell(x, [tf.tanh(y)] * states)[0], _INPUTS, variables=list(cell.weights)
    )


def _sequence(x: tf.Tensor) -> tf.Tensor:
    """Three steps of a cell, one after the other."""
    state = tf.zeros([tf.shape(x)[0], 2])
    for index in range(3):
        state = tf.tanh(x[:, index] @ _GATES[:4, :2] + state @ _GATES[4:, :2])
    return state


OPERATIONS = [
    Operation("LSTMBlockCell", _GROUP, _lstm_block, _INPUTS),
    Operation("GRUBlockCell", _GROUP, _gru_block, _INPUTS),
    _of_layer(tf.keras.layers.LSTMCell(2), 2),
    _of_layer(tf.keras.layers.GRUCell(2), 1),
    _of_layer(tf.keras.layers.SimpleRNNCell(2), 1),
    Operation("three steps of a cell", _GROUP, _sequence, one(shape=(3, 4))),
]
