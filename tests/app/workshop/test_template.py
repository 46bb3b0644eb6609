import numpy as np
import pytest

from app.workshop.template import Place, Template

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
