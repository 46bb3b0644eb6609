"""The noise that sampling takes as an input: from a seed, or fresh. Pure but for the generator of the fresh noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.wire.tensors import Arrays
from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM, Noise

# Numbers for a whole call, [size], of functions whose rows all get the same.
CALL_UNIFORM, CALL_NORMAL = f"{NOISE_UNIFORM}/call", f"{NOISE_NORMAL}/call"
OF_A_CALL = (CALL_UNIFORM, CALL_NORMAL)
NOISE_INPUTS = (NOISE_UNIFORM, NOISE_NORMAL, *OF_A_CALL)

# Uniform numbers are odd multiples of 2^-24: never 0 or 1, and exact in float32.
_BITS = 23


def fresh_noise(noise: Noise, rows: int, generator: np.random.Generator) -> Arrays:
    """Noise for requests without a seed: [rows, size] float32 for each kind that the policy takes."""
    return fresh_inputs(sizes_of(noise), rows, generator)


def sizes_of(noise: Noise) -> dict[str, int]:
    """The size of each input of `sample` that is noise, by name."""
    sizes = {NOISE_UNIFORM: noise.uniform, NOISE_NORMAL: noise.normal}
    return {name: size for name, size in sizes.items() if size}


def fresh_inputs(sizes: Mapping[str, int], rows: int, generator: np.random.Generator) -> Arrays:
    """Noise for a function that takes it as inputs: [rows, size] float32, or [size] of those for a whole call.

    Args:
      sizes: by the name of the input.
      rows: of the call.
      generator: where it comes from.
    """
    arrays: Arrays = {}
    for name, size in sizes.items():
        shape = (size,) if name in OF_A_CALL else (rows, size)
        if name in (NOISE_UNIFORM, CALL_UNIFORM):
            arrays[name] = _uniform(generator.integers(0, 1 << _BITS, shape, np.uint32))
        else:
            arrays[name] = generator.standard_normal(shape, np.float32)
    return arrays


def seeded_noise(noise: Noise, rows: int, seed: int, step: int = 0) -> Arrays:
    """The noise of a seed: row i depends only on (seed, step, i), however many rows there are.

    From NumPy's counter-based generator Philox4x64-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As
    Easy as 1, 2, 3", 2011), of which each row takes a fixed number of steps. That is why the normal numbers come by the
    transform of Box and Muller ("A Note on the Generation of Random Normal Deviates", 1958), √(-2 ln u) · cos 2πv and
    √(-2 ln u) · sin 2πv, and not by NumPy's own ziggurat, which rejects and so takes as many as it likes.

    Args:
      noise: how many uniform numbers, of (0, 1), and standard normal ones a row takes.
      rows: how many rows.
      seed: an unsigned integer of 64 bits, the key of the generator.
      step: of an episode; each step has noise of its own.

    Returns:
      [rows, size] float32 for each kind that the policy takes.
    """
    arrays: Arrays = {}
    if noise.uniform:
        arrays[NOISE_UNIFORM] = _uniform(_raw(seed, step, 0, rows, noise.uniform) >> np.uint64(64 - _BITS))
    if noise.normal:
        pairs = -(-noise.normal // 2)
        raw = _raw(seed, step, 1, rows, 2 * pairs).reshape(rows, pairs, 2)
        unit = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log(unit[..., 0])), 2.0 * np.pi * unit[..., 1]
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        arrays[NOISE_NORMAL] = both.reshape(rows, 2 * pairs)[:, : noise.normal].astype(np.float32)
    return arrays


def _raw(seed: int, step: int, stream: int, rows: int, size: int) -> np.ndarray[Any, Any]:
    # The step stands in the highest word of the counter, which no step's own numbers reach.
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, 0, step], np.uint64))
    return np.asarray(philox.random_raw(rows * size), np.uint64).reshape(rows, size)


def _uniform(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return ((bits.astype(np.float64) + 0.5) * 2.0**-_BITS).astype(np.float32)
