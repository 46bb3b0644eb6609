"""The bijectors of a transformed distribution: in the order in which they are applied, and named."""

import pytest
import tensorflow_probability as tfp
from tf_agents.distributions import tanh_bijector_stable

from saver.bijectors import in_order, is_plain, name_of

tfb = tfp.bijectors


def test_chains_are_unrolled_in_the_order_of_application() -> None:
    inner = tfb.Chain([tfb.Tanh(), tfb.Shift(1.0)])
    names = [name_of(bijector) for bijector in in_order(tfb.Chain([tfb.Scale(2.0), inner, tfb.Exp()]))]
    assert names == ["exp", "shift", "tanh", "scale"]
    assert [name_of(bijector) for bijector in in_order(tfb.Sigmoid())] == ["sigmoid"]


@pytest.mark.parametrize(
    ("bijector", "plain"),
    [
        (tfb.Shift(1.0), True),
        (tfb.Scale(2.0), True),
        (tfb.Scale(log_scale=0.5), False),  # its scale is not among its parameters
        (tfb.Softplus(), True),
        (tfb.Softplus(hinge_softness=2.0), False),
        (tfb.Softplus(low=1.0), False),
        (tanh_bijector_stable.Tanh(), True),
        (tfb.Sigmoid(low=-1.0, high=1.0), True),
        (tfb.Reciprocal(), False),
        (tfb.Power(2.0), False),
    ],
)
def test_only_those_whose_parameters_say_all_are_plain(bijector, plain) -> None:
    assert is_plain(bijector) is plain


def test_names_are_in_lower_case_with_underscores() -> None:
    assert name_of(tfb.SoftClip(low=0.0)) == "soft_clip"
