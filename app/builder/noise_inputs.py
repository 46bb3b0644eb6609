"""A function that draws random numbers → the same function of noise that it is given, read off its graph.

Each operation that draws becomes a part of an input. An engine draws that afresh for every call; what the function
answers is distributed as before, and two engines can be compared, with the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from app.builder.assertions import may_refuse
from app.builder.draws import CATEGORY, INTEGER, NORMAL, CannotReplace, Draw, draws_in
from app.builder.random_ops import changes_state, reached
from app.builder.traced_again import OpenGraph
from app.builder.unrolled_loops import CannotUnroll, runs_others, unrolled
from app.engine.noise import CALL_UNIFORM, NOISE_INPUTS, OF_A_CALL
from app.engine.savedmodel.engine import FlatFunction, TensorFlowEngine
from app.wire.tensors import Arrays
from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM, PolicySpec
from saver.artifact.probe import probe_inputs
from saver.impure_ops import impurities, seed_of

# Numbers of rows that are tried, to see which size of what is drawn depends on them.
_FEW, _MORE = 2, 3


def with_noise_inputs(engine: TensorFlowEngine, names: Sequence[str], spec: PolicySpec) -> TensorFlowEngine:
    """The engine, with the functions of these names taking their noise as inputs, over the same variables.

    Args:
      engine: a copy of the policy.
      names: of functions that draw.
      spec: of the policy.

    Raises:
      CannotReplace: a function draws what cannot be had from noise, or does more than draw; the message says what.
    """
    sizes = (_FEW, _MORE) if spec.batch_size is None else (spec.batch_size,)
    probes = [probe_inputs(spec, engine.initial_state(rows), rows) for rows in sizes]
    functions = {}
    for name in names:
        try:
            functions[name] = of_noise(engine.functions[name], probes)
        except CannotReplace as error:
            raise CannotReplace(f"{name} {error}") from error
    return TensorFlowEngine(engine.model, {**engine.functions, **functions}, spec, engine.graph)


def of_noise(function: FlatFunction, probes: Sequence[Arrays]) -> FlatFunction:
    """One function with its noise as inputs; without its loops and branches where it draws in them."""
    impure = impurities(function.concrete)
    if any(kind.startswith("Rng") for kind in impure):
        raise CannotReplace("draws from a generator, whose state is a variable")
    if changing := [kind for kind in impure if changes_state(kind)]:
        raise CannotReplace(f"changes variables in each call ({changing[0]})")
    if seed_of(function.concrete) == "own":
        raise CannotReplace("draws from a seed in the export")
    if may_refuse(function.concrete):
        raise CannotReplace("may refuse inputs by an assertion, and LiteRT would answer them")
    try:
        return _Drawing(function).of_noise(probes)
    except CannotReplace:
        if not runs_others(function):
            raise
        try:
            function = unrolled(function)
        except CannotUnroll as error:
            raise CannotReplace(f"draws in a loop: {error}") from error
    return _Drawing(function).of_noise(probes)


def noise_for(function: FlatFunction, rows: int, seed: int) -> Arrays:
    """Noise for probes: for each input of the function that is noise, numbers from a generator of that seed."""
    arrays: Arrays = {}
    if not function.dtypes.keys() & set(NOISE_INPUTS):
        return arrays
    generator = np.random.default_rng(seed)
    for spec in tf.nest.flatten(function.concrete.structured_input_signature):
        if spec.name in NOISE_INPUTS:
            shape = [rows if size is None else size for size in spec.shape]
            uniform = spec.name in (NOISE_UNIFORM, CALL_UNIFORM)
            drawn = generator.uniform(0.001, 0.999, shape) if uniform else generator.standard_normal(shape)
            arrays[spec.name] = drawn.astype(np.float32)
    return arrays


@dataclass(frozen=True)
class _Place:
    """The numbers that one draw takes: `count` of the input `source`, from `start` on, for each row or for a call.

    `shape`: what they become; its `axis` depends on the rows, if any does.
    """

    source: str
    start: int
    count: int
    shape: tuple[int, ...]
    axis: int | None

    def taken(self, given: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The numbers in the shape of the draw."""
        numbers = given[self.source][..., self.start : self.start + self.count]
        if self.axis is None:
            return tf.reshape(numbers, self.shape)
        others = [size for axis, size in enumerate(self.shape) if axis != self.axis]
        by_row = tf.reshape(numbers, [-1, *others])
        order = list(range(1, len(self.shape)))
        order.insert(self.axis, 0)
        return by_row if self.axis == 0 else tf.transpose(by_row, order)


class _Drawing:
    """A function that draws, and its draws."""

    def __init__(self, function: FlatFunction) -> None:
        try:
            self._open = OpenGraph(function)
        except ValueError as error:
            raise CannotReplace(f"draws, and {error}") from error
        self._draws = draws_in(reached(self._open.graph))

    def of_noise(self, probes: Sequence[Arrays]) -> FlatFunction:
        """The function with its draws as inputs.

        Args:
          probes: inputs of calls of two numbers of rows, or of the only one.

        Raises:
          CannotReplace: something else makes two calls differ, or a draw has a shape that is not known.
        """
        rows = [len(next(iter(probe.values()))) for probe in probes]
        places, sizes = _places(self._draws, self._shapes(probes), rows)

        def fill_in(known: dict[str, tf.Tensor], given: dict[str, tf.Tensor]) -> None:
            for draw, place in places:
                self._open.add(known, draw.parameters)
                drawn = _drawn(draw, place.taken(given), [known[tensor.name] for tensor in draw.parameters])
                known |= {one.outputs[0].name: drawn for one in draw.operations}

        per_row = None if len(rows) > 1 else rows[0]
        more = [
            tf.TensorSpec([per_row, size] if name in (NOISE_UNIFORM, NOISE_NORMAL) else [size], tf.float32, name)
            for name, size in sizes.items()
        ]
        function = self._open.traced(fill_in, more)
        if left := impurities(function.concrete):
            raise CannotReplace(f"is not the same from call to call, beside what it draws: {', '.join(left)}")
        return function

    def _shapes(self, probes: Sequence[Arrays]) -> list[list[tuple[int, ...]]]:
        """The shape of the noise of each draw, for each of the probes."""

        @tf.function(autograph=False)
        def shapes(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            known = self._open.known(tensors)
            self._open.add(known, [tensor for draw in self._draws for tensor in draw.shaped_like])
            return [
                tf.concat([tf.shape(known[t.name])[i:] for i, t in enumerate(draw.shaped_like)], 0)
                for draw in self._draws
            ]

        dtypes = self._open.dtypes
        found = [shapes([tf.constant(probe[name], dtype) for name, dtype in dtypes.items()]) for probe in probes]
        return [[tuple(shape.numpy().tolist()) for shape in one] for one in found]


def _places(
    draws: Sequence[Draw], shapes: Sequence[Sequence[tuple[int, ...]]], rows: Sequence[int]
) -> tuple[list[tuple[Draw, _Place]], dict[str, int]]:
    """Deals out the columns of the inputs; and the size of each input.

    Raises:
      CannotReplace: a shape depends on more than the number of rows.
    """
    places, sizes = [], dict[str, int]()
    for draw, *found in zip(draws, *shapes, strict=True):
        axis, count = _by_row(found, rows)
        source = OF_A_CALL if axis is None else (NOISE_UNIFORM, NOISE_NORMAL)
        name = source[draw.what == NORMAL]
        places.append((draw, _Place(name, sizes.get(name, 0), count, found[0], axis)))
        sizes[name] = sizes.get(name, 0) + count
    return places, sizes


def _by_row(shapes: Sequence[tuple[int, ...]], rows: Sequence[int]) -> tuple[int | None, int]:
    """Which axis of what is drawn depends on the rows, and how many numbers are for each row, or for a call.

    Args:
      shapes: of one draw, for each of the numbers of rows.
      rows: those numbers.
    """
    if len(rows) == 1:  # which axis it is cannot be seen by its size; the rows stand first
        if not shapes[0] or shapes[0][0] % rows[0]:
            raise CannotReplace("draws the same numbers for all rows of a call, whose number is fixed")
        return 0, math.prod(shapes[0]) // rows[0]
    few, more = shapes
    axes = [axis for axis, (one, other) in enumerate(zip(few, more, strict=True)) if one != other]
    if not axes:
        return None, math.prod(few)
    if len(axes) > 1 or few[axes[0]] * rows[1] != more[axes[0]] * rows[0] or few[axes[0]] % rows[0]:
        raise CannotReplace(f"draws numbers of the shapes {few} and {more} for {rows[0]} and {rows[1]} rows")
    return axes[0], math.prod(few) // rows[0]


def _drawn(draw: Draw, numbers: tf.Tensor, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
    """What the draw gives, from numbers of its own."""
    dtype = draw.operation.outputs[0].dtype
    if draw.what == INTEGER:
        low, span = draw.range
        whole = tf.minimum(tf.cast(numbers * tf.constant(span, tf.float32), dtype), tf.constant(span - 1, dtype))
        return tf.constant(low, dtype) + whole
    if draw.what == CATEGORY:  # by the Gumbel-max trick: see saver.distributions
        logits = parameters[0][:, None]
        possible = tf.abs(logits) < np.inf  # the others TensorFlow's kernel never draws
        gumbel = -tf.math.log(-tf.math.log(numbers))
        return tf.argmax(tf.where(possible, logits + gumbel, -np.inf), axis=-1, output_type=dtype)
    return numbers
