"""Two sets of samples in, whether they may come from one distribution out."""

import itertools
import math

import numpy as np
import tensorflow as tf

_JOINT_CATEGORIES = 64  # more of them together have too few samples each


def same_distribution(a: np.ndarray, b: np.ndarray, error_rate: float) -> bool:
    """Whether samples `a` and `b`, [n, …] and [m, …], agree; equal distributions fail at most at this rate.

    Discrete ones by chi-square, for each component and, where categories are few, for all components together;
    continuous ones by Kolmogorov and Smirnov for each component.
    """
    p_values = _p_values(_columns(a), _columns(b))
    return min(p_values, default=1.0) * len(p_values) >= error_rate


def _columns(samples: np.ndarray) -> np.ndarray:
    return np.reshape(samples, [len(samples), -1])


def _p_values(a: np.ndarray, b: np.ndarray) -> list[float]:
    columns = zip(a.T, b.T, strict=True)
    if np.issubdtype(a.dtype, np.floating):
        return [kolmogorov_smirnov(x, y) for x, y in columns]
    p_values = [chi_square(x, y) for x, y in columns]
    combinations, codes = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    if a.shape[1] > 1 and len(combinations) <= _JOINT_CATEGORIES:
        p_values.append(chi_square(codes[: len(a)], codes[len(a) :]))
    return p_values


def chi_square(a: np.ndarray, b: np.ndarray) -> float:
    """The p-value of Pearson's test that integers `a` and `b` have one distribution; rare neighbours are merged."""
    values = np.unique(np.concatenate([a, b]))
    counts = np.stack([[np.count_nonzero(x == value) for value in values] for x in (a, b)])
    share = np.array([[len(a)], [len(b)]]) / (len(a) + len(b))
    cells = _merged(counts, 5 / share.min())
    expected = share * cells.sum(axis=0)
    statistic = float(np.sum((cells - expected) ** 2 / expected))
    degrees = cells.shape[1] - 1
    return float(tf.math.igammac(tf.constant(degrees / 2, tf.float64), statistic / 2)) if degrees else 1.0


def _merged(counts: np.ndarray, least: float) -> np.ndarray:
    """Joins neighbouring columns of [2, k] until each has at least so many."""
    cells = [np.zeros(2)]
    for column in counts.T:
        if cells[-1].sum() >= least:
            cells.append(np.zeros(2))
        cells[-1] = cells[-1] + column
    if len(cells) > 1 and cells[-1].sum() < least:
        cells[-2:] = [cells[-2] + cells[-1]]
    return np.stack(cells, axis=1)


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """The asymptotic p-value that floats `a` and `b` have one distribution; conservative where values repeat.

    Values that differ by rounding count as equal, or a few repeated ones (log-probabilities) would seem to differ.
    """
    distance = max(_excess(a, b), _excess(b, a))
    size = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return _kolmogorov(size * distance)


def _excess(a: np.ndarray, b: np.ndarray) -> float:
    """By how much the share of `a` up to some point exceeds that of `b` at most."""
    points, other = np.sort(a.astype(np.float64)), np.sort(b.astype(np.float64))
    up_to = np.searchsorted(points, points, side="right") / len(points)
    return float(
        np.max(up_to - np.searchsorted(other, points + 1e-5 + 1e-5 * np.abs(points), side="right") / len(other))
    )


def _kolmogorov(x: float) -> float:
    if x < 0.3:  # the series is slow there, and the p-value above 1 − 1e-5
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in itertools.count(1))
    return min(1.0, max(0.0, 2 * sum(itertools.islice(terms, 30))))
