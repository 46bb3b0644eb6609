"""The bijectors of a transformed distribution: their order, and which of them have a flat form."""

from __future__ import annotations

import re
from typing import Any

import tensorflow_probability as tfp

tfb = tfp.bijectors
# Their parameters, if any, are those that `saver.distributions` publishes.
_PLAIN = (tfb.Shift, tfb.Tanh, tfb.Exp, tfb.Sigmoid, tfb.Identity)


def is_plain(bijector: Any) -> bool:
    """Whether its name and its published parameters say all of it."""
    if isinstance(bijector, tfb.Scale):
        return bijector.parameters.get("scale") is not None
    if isinstance(bijector, tfb.Softplus):
        return bijector.hinge_softness is None and bijector.low is None
    return isinstance(bijector, _PLAIN) or type(bijector).__name__ == "Tanh"  # TF-Agents has one of its own


def in_order(bijector: Any) -> list[Any]:
    """The bijectors of a chain, in the order in which they are applied."""
    if isinstance(bijector, tfb.Chain):
        return [part for link in reversed(bijector.bijectors) for part in in_order(link)]
    return [bijector]


def name_of(bijector: Any) -> str:
    """The name of its class, in lower case with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(bijector).__name__.strip("_")).lower()
