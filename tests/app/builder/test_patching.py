import numpy as np
import pytest

from app.builder.patching import Place, Template, distinguishable, like

KERNEL = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
COUNT = np.array(7, np.int64)


def test_weights_stand_in_their_places_permuted_and_scaled():
    template = Template((b"head", Place(0, (1, 0)), b"-", Place(0, (0, 1), np.float32(0.5)), b"tail"), [KERNEL])
    permuted = KERNEL.T.copy().tobytes()
    scaled = (KERNEL * np.float32(0.5)).tobytes()
    assert b"".join(bytes(part) for part in template.filled([KERNEL])) == b"head" + permuted + b"-" + scaled + b"tail"


@pytest.mark.parametrize(
    ("weights", "fits"),
    [
        ([KERNEL * 2, COUNT], True),
        ([KERNEL, COUNT + 1], False),
        ([KERNEL.T, COUNT], False),
        ([KERNEL.astype(np.float64), COUNT], False),
        ([KERNEL], False),
    ],
    ids=["other floats", "another integer", "another shape", "another dtype", "one less"],
)
def test_template_is_for_other_floats_only(weights, fits):
    assert Template((Place(0, (0, 1)),), [KERNEL, COUNT]).fits(weights) is fits


def test_values_that_distinguish_functions_have_both_signs_many_magnitudes_and_special_numbers():
    values, count, scalar = distinguishable([np.ones((40, 10), np.float32), COUNT, np.ones((), np.float32)])
    assert values.dtype == np.float32
    assert (values > 0).sum() > 100
    assert (values < 0).sum() > 100
    assert {0.0, 1.0, -1.0, 6.0} <= set(values.flat)
    assert np.abs(values).max() > 1e3
    assert np.abs(values[values != 0]).min() < 1e-2
    assert len(np.unique(values)) > 300
    assert count is COUNT
    assert scalar not in (0, 1)


def test_values_like_the_real_ones_are_the_real_ones_unless_they_are_special():
    zeros, same = np.zeros(3, np.float32), KERNEL.copy()
    kernel, bias, again, count = like([KERNEL, zeros, same, COUNT])
    assert kernel is KERNEL
    assert (bias != 0).all()
    assert (again != KERNEL).any()
    assert count is COUNT
