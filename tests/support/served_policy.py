"""A policy of some of its parts, for tests that need no server."""

from typing import Any

from app.inference.policy import Policy
from app.inference.response import response_templates
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from app.traffic.arms import Arms
from saver.artifact import PolicySpec, ServingInfo


def policy_of(spec: PolicySpec, serving: ServingInfo, *, rows_limit: int, **parts: Any) -> Policy:
    """A policy that reads requests and writes answers by its spec; what `parts` does not name is None."""
    made: dict[str, Any] = dict.fromkeys(Policy.__dataclass_fields__)
    made |= {
        "name": "p",
        "spec": spec,
        "serving": serving,
        "typed_decoder": TypedDecoder(spec, rows_limit=rows_limit),
        "reader": InputValidator(spec, rows_limit=rows_limit),
        "templates": response_templates(spec, serving),
        "arms": Arms(parts.get("versions")),  # type: ignore[arg-type]
    }
    return Policy(**made | parts)
