"""The tests of samples reject at the rate they state, and see what is different."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.zoo.statistics import chi_square, kolmogorov_smirnov, same_distribution

Sampler = Callable[[np.random.Generator, int], np.ndarray]

SAMPLERS: dict[str, Sampler] = {
    "categories": lambda g, n: g.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]),
    "rare categories": lambda g, n: g.choice(
        30, n, p=np.exp(-0.3 * np.arange(30)) / np.exp(-0.3 * np.arange(30)).sum()
    ),
    "pairs": lambda g, n: g.integers(0, 3, [n, 2]),
    "many integers": lambda g, n: g.poisson(300.0, n),
    "normal": lambda g, n: g.normal(size=n).astype(np.float32),
    "matrix": lambda g, n: g.normal(size=[n, 2, 2]).astype(np.float32),
    "clipped": lambda g, n: np.clip(g.normal(size=n), -0.5, 1.0),
    "few floats": lambda g, n: g.choice([0.1, 0.2, 0.7], n),
}
DISCRETE_OR_CONTINUOUS = ("categories", "many integers", "normal")  # neither conservative nor by Bonferroni


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_distributions_are_rejected_at_most_at_the_stated_rate(name: str) -> None:
    generator = np.random.default_rng(0)
    draw = SAMPLERS[name]
    trials = 1000
    rejected = sum(not same_distribution(draw(generator, 400), draw(generator, 500), 0.01) for _ in range(trials))
    assert rejected <= 22  # 10 are expected; more than 22 come once in 2,000 runs
    if name in DISCRETE_OR_CONTINUOUS:
        assert rejected >= 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("categories", lambda g, n: g.choice(4, n, p=[0.4, 0.4, 0.15, 0.05])),
        ("categories", lambda g, n: SAMPLERS["categories"](g, n) + 1),
        ("categories", lambda g, n: np.zeros(n, int)),
        ("pairs", lambda g, n: np.repeat(g.integers(0, 3, [n, 1]), 2, axis=1)),
        ("many integers", lambda g, n: g.poisson(308.0, n)),
        ("many integers", lambda g, n: np.full(n, 300)),
        ("normal", lambda g, n: g.normal(0.25, size=n)),
        ("normal", lambda g, n: g.normal(0.0, 1.5, size=n)),
        ("normal", lambda g, n: np.full(n, g.normal())),
        ("normal", lambda g, n: np.repeat(g.normal(size=8), n // 8)),
        ("matrix", lambda g, n: g.normal([[0.0, 0.0], [0.0, 0.2]], size=[n, 2, 2])),
        ("clipped", lambda g, n: np.clip(g.normal(size=n), -0.5, 0.9)),
        ("few floats", lambda g, n: g.choice([0.1, 0.2, 0.71], n)),
        ("few floats", lambda g, n: g.choice([0.1, 0.2, 0.7], n, p=[0.5, 0.25, 0.25])),
    ],
)
def test_other_distributions_are_rejected_with_4096_samples(a: str, b: Sampler) -> None:
    generator = np.random.default_rng(1)
    rejected = [not same_distribution(SAMPLERS[a](generator, 4096), b(generator, 4096), 1e-6) for _ in range(20)]
    assert all(rejected)


def test_rounding_is_no_difference() -> None:
    values = np.random.default_rng(2).choice([-1.2, -0.3, 5000.0], 4096)
    assert same_distribution(values, values * (1 + 5e-6), 0.5)
    assert not same_distribution(values, values * (1 + 5e-4), 1e-6)


def test_p_values_are_those_of_the_tables() -> None:
    # Pearson's statistic is 2 · 10²/50 = 4 with one degree of freedom.
    assert chi_square(np.repeat([0, 1], [60, 40]), np.repeat([0, 1], [40, 60])) == pytest.approx(0.004678, rel=1e-3)
    # A distance of 0.5 between 2 · 50 samples: λ = 2.5.
    a, b = np.arange(50.0), np.arange(50.0) + 25
    assert kolmogorov_smirnov(a, b) == pytest.approx(2 * np.exp(-2 * 2.5**2), rel=1e-6)
    assert kolmogorov_smirnov(a, a) == 1.0
    assert chi_square(np.ones(50, int), np.ones(50, int)) == 1.0
