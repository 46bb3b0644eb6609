"""Compared with TFP's own divergences."""

import numpy as np
import pytest
import tensorflow_probability as tfp

from app.traffic.divergence import divergence, needed
from saver.artifact import DistributionInfo

tfd = tfp.distributions
GENERATOR = np.random.default_rng(3)
ROWS = 5


def normals(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=(ROWS, *shape)).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.exp(normals(*shape))


def factors(size: int) -> np.ndarray:
    return np.tril(normals(size, size), -1) + np.eye(size, dtype=np.float32) * positive(size)[:, None]


CASES = {
    "categorical": (lambda: {"logits": normals(3, 4)}, lambda logits: tfd.Categorical(logits)),
    "one_hot_categorical": (lambda: {"logits": normals(4)}, lambda logits: tfd.OneHotCategorical(logits)),
    "bernoulli": (lambda: {"logits": normals(3)}, lambda logits: tfd.Bernoulli(logits)),
    "normal": (lambda: {"loc": normals(2), "scale": positive(2)}, lambda loc, scale: tfd.Normal(loc, scale)),
    "multivariate_normal_diag": (
        lambda: {"loc": normals(2), "scale_diag": positive(2)},
        lambda loc, scale_diag: tfd.MultivariateNormalDiag(loc, scale_diag),
    ),
    "multivariate_normal_tril": (
        lambda: {"loc": normals(3), "scale_tril": factors(3)},
        lambda loc, scale_tril: tfd.MultivariateNormalTriL(loc, scale_tril),
    ),
    "beta": (
        lambda: {"concentration1": positive(2), "concentration0": positive(2)},
        lambda concentration1, concentration0: tfd.Beta(concentration1, concentration0),
    ),
}


@pytest.mark.parametrize("family", CASES)
def test_it_is_tfps(family: str) -> None:
    make, distribution = CASES[family]
    first, second = make(), make()
    info = DistributionInfo(family, tuple(first), ())
    expected = tfd.kl_divergence(distribution(**first), distribution(**second)).numpy()
    np.testing.assert_allclose(
        divergence(info, first, second), expected.reshape(ROWS, -1).sum(axis=1), rtol=2e-4, atol=1e-5
    )
    assert np.all(divergence(info, first, first) == pytest.approx(0, abs=1e-9))
    assert set(needed(info)) == set(first)


def test_what_only_the_first_may_do_is_infinitely_far_and_what_neither_may_do_is_nothing() -> None:
    lowest = np.finfo(np.float32).min
    info = DistributionInfo("masked_categorical", ("logits", "probs", "mask"), ())
    first = {"logits": np.array([[0.0, 0.0, lowest], [0.0, 0.0, lowest]], np.float32)}
    second = {"logits": np.array([[0.0, 0.0, lowest], [0.0, -np.inf, lowest]], np.float32)}
    np.testing.assert_array_equal(divergence(info, first, second), [0.0, np.inf])


def test_a_bijection_changes_nothing_where_it_is_the_same() -> None:
    info = DistributionInfo(
        "transformed",
        ("base/loc", "base/scale_diag", "bijector/1/shift"),
        (),
        {"base": {"family": "multivariate_normal_diag"}, "bijectors": ["tanh", "shift"]},
    )
    plain = DistributionInfo("multivariate_normal_diag", ("loc", "scale_diag"), ())
    first, second = ({"loc": normals(2), "scale_diag": positive(2)} for _ in range(2))
    whole = [
        {f"base/{name}": array for name, array in side.items()} | {"bijector/1/shift": np.ones((ROWS, 2))}
        for side in (first, second)
    ]
    np.testing.assert_array_equal(divergence(info, *whole), divergence(plain, first, second))
    assert needed(info) == info.parameters
    whole[1]["bijector/1/shift"][2] = 2
    assert np.isnan(divergence(info, *whole)).tolist() == [False, False, True, False, False]


def test_squashed_normals_are_compared_before_tanh() -> None:
    info = DistributionInfo("squashed_normal", ("loc", "scale_diag", "low", "high"), ())
    bounds = {"low": -np.ones((ROWS, 2), np.float32), "high": np.ones((ROWS, 2), np.float32)}
    first, second = ({"loc": normals(2), "scale_diag": positive(2)} for _ in range(2))
    plain = DistributionInfo("multivariate_normal_diag", ("loc", "scale_diag"), ())
    found = divergence(info, first | bounds, second | bounds)
    np.testing.assert_array_equal(found, divergence(plain, first, second))


@pytest.mark.parametrize("family", ["mixture", "deterministic"])
def test_a_family_without_a_closed_form_has_none(family: str) -> None:
    info = DistributionInfo(family, (), ())
    assert divergence(info, {}, {}) is None
    assert needed(info) == ()
