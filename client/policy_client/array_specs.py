"""Nests of a server's description → TF-Agents' array specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tf_agents.specs import array_spec

from policy_client.fields import Nest


def array_spec_of(nest: Mapping[str, Any]) -> Nest:
    """A nest of the server's description as array specs: {"dict": …} as dict, {"list": …} as tuple."""
    if "dict" in nest:
        return {key: array_spec_of(child) for key, child in nest["dict"].items()}
    if "list" in nest:
        return tuple(array_spec_of(child) for child in nest["list"])
    dtype = np.dtype(object if nest["dtype"] == "string" else nest["dtype"])
    shape, name = tuple(nest["shape"]), nest["name"]
    if "minimum" in nest and "maximum" in nest:
        minimum, maximum = (np.asarray(nest[bound], np.float64 if dtype.kind == "f" else None) for bound in _BOUNDS)
        return array_spec.BoundedArraySpec(shape, dtype, minimum, maximum, name)
    return array_spec.ArraySpec(shape, dtype, name)


_BOUNDS = ("minimum", "maximum")
