"""What a policy may answer, and inputs that a spec allows."""

import ml_dtypes
import numpy as np
import pytest

from saver.artifact import Leaf
from saver.artifact.probe import outside_spec


@pytest.mark.parametrize(
    ("dtype", "value", "says"),
    [
        ("float64", 1e200, None),
        ("float64", np.inf, "is not finite"),
        ("float32", 3e38, None),
        ("float32", np.nan, "is not finite"),
        ("bfloat16", 3e38, None),
        ("bfloat16", np.nan, "is not finite"),
        ("int64", 2**40, None),
    ],
)
def test_a_number_is_finite_by_its_own_dtype(dtype: str, value: float, says: str | None) -> None:
    storage = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    assert outside_spec(np.array([value], storage), Leaf("action", dtype, ())) == says
