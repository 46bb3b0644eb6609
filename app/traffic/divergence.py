"""The Kullback-Leibler divergence of two distributions of one family, from their published parameters. Pure.

By the closed forms, in nats, summed over the independent parts of a row: D(p ‖ q) = E_p[log p - log q].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from app.wire.tensors import Array, Arrays
from saver.artifact import DistributionInfo


def divergence(info: DistributionInfo, first: Arrays, second: Arrays) -> Array | None:
    """Returns D(first ‖ second) of each row: [rows] float64; None where the family has no closed form here.

    Infinite where the second excludes what the first does not.

    Args:
      info: of the distribution of one action leaf.
      first: its parameters, [rows, …] by their names; only those in `needed` are read.
      second: those of the other one.
    """
    return _divergence(info.family, info.details, first, second)


def needed(info: DistributionInfo) -> tuple[str, ...]:
    """Returns the names of the parameters that `divergence` reads; none where it has no closed form."""
    return _needed(info.family, info.details, info.parameters)


def _needed(family: str, details: Mapping[str, Any], given: tuple[str, ...]) -> tuple[str, ...]:
    if family == "transformed":
        base = _needed(details["base"]["family"], details["base"], ())
        bijectors = tuple(name for name in given if name.startswith("bijector/"))
        return (*(f"base/{name}" for name in base), *bijectors) if base else ()
    return _FAMILIES[family][0] if family in _FAMILIES else ()


def _divergence(family: str, details: Mapping[str, Any], first: Arrays, second: Arrays) -> Array | None:
    if family == "transformed":
        base = details["base"]
        inner = _divergence(base["family"], base, _below("base/", first), _below("base/", second))
        return None if inner is None else _where_equal(inner, first, second, "bijector/")
    if family not in _FAMILIES:
        return None
    names, closed_form = _FAMILIES[family]
    rows = len(first[names[0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = closed_form(*(np.asarray(side[name], np.float64) for side in (first, second) for name in names))
    return np.asarray(np.asarray(parts, np.float64).reshape(rows, -1).sum(axis=1))


def _below(prefix: str, parameters: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in parameters.items() if name.startswith(prefix)}


def _where_equal(inner: Array, first: Arrays, second: Arrays, prefix: str) -> Array:
    """The divergence before a bijection, which leaves it as it is; unknown (NaN) where the bijections differ."""
    same = np.ones(len(inner), bool)
    for name in first:
        if name.startswith(prefix) and name in second:
            same &= (first[name] == second[name]).reshape(len(inner), -1).all(axis=1)
    return np.where(same, inner, np.nan)


def _categorical(logits: Array, other: Array) -> Array:
    log_p, log_q = _log_softmax(logits), _log_softmax(other)
    p = np.exp(log_p)
    return np.where(p > 0, p * (log_p - log_q), 0.0)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _bernoulli(logits: Array, other: Array) -> Array:
    def both(values: Array) -> Array:
        return np.stack([values, np.zeros_like(values)], axis=-1)

    return _categorical(both(logits), both(other))


def _normal(loc: Array, scale: Array, other_loc: Array, other_scale: Array) -> Array:
    ratio = np.square(scale / other_scale)
    return np.asarray(0.5 * (ratio + np.square((loc - other_loc) / other_scale) - 1.0 - np.log(ratio)))


def _squashed(loc: Array, scale: Array, low: Array, high: Array, *other: Array) -> Array:
    """Of the values before tanh; unknown where the bounds differ."""
    other_loc, other_scale, other_low, other_high = other
    return np.where((low == other_low) & (high == other_high), _normal(loc, scale, other_loc, other_scale), np.nan)


def _full_normal(loc: Array, factor: Array, other_loc: Array, other_factor: Array) -> Array:
    mixed = np.linalg.solve(other_factor, factor)
    apart = np.linalg.solve(other_factor, (other_loc - loc)[..., None])[..., 0]
    logs = [np.log(np.abs(np.diagonal(f, axis1=-2, axis2=-1))).sum(axis=-1) for f in (factor, other_factor)]
    squares = np.square(mixed).sum(axis=(-2, -1)) + np.square(apart).sum(axis=-1)
    return np.asarray(0.5 * (squares - loc.shape[-1]) + logs[1] - logs[0])


def _beta(one: Array, zero: Array, other_one: Array, other_zero: Array) -> Array:
    def log_beta(a: Array, b: Array) -> Array:
        return np.asarray(_log_gamma(a) + _log_gamma(b) - _log_gamma(a + b))

    apart = log_beta(other_one, other_zero) - log_beta(one, zero)
    moved = (one - other_one) * _digamma(one) + (zero - other_zero) * _digamma(zero)
    return np.asarray(apart + moved + (other_one - one + other_zero - zero) * _digamma(one + zero))


_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


def _digamma(x: Array) -> Array:
    """By the asymptotic series, after steps of ψ(x) = ψ(x + 1) - 1/x (Bernardo, Algorithm AS 103, 1976)."""
    below = np.zeros_like(x)
    for _ in range(8):
        below, x = below - 1.0 / x, x + 1.0
    square = 1.0 / np.square(x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return np.asarray(below + np.log(x) - 0.5 / x - series)


# Family → the parameters that are read, and the closed form of those of the one and of the other.
_FAMILIES: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    **dict.fromkeys(
        ("categorical", "one_hot_categorical", "shifted_categorical", "masked_categorical"),
        (("logits",), _categorical),
    ),
    "bernoulli": (("logits",), _bernoulli),
    "normal": (("loc", "scale"), _normal),
    "multivariate_normal_diag": (("loc", "scale_diag"), _normal),
    "multivariate_normal_tril": (("loc", "scale_tril"), _full_normal),
    "squashed_normal": (("loc", "scale_diag", "low", "high"), _squashed),
    "beta": (("concentration1", "concentration0"), _beta),
}
