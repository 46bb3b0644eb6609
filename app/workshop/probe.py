"""Whether a copy answers probe inputs with something that the policy may give."""

from __future__ import annotations

from app.engine.base import Engine
from app.errors import SwapRefused
from saver.artifact import PolicySpec, leaves
from saver.artifact.probe import outside_spec, probe_inputs

ROWS = 4


def check(engine: Engine, spec: PolicySpec) -> None:
    """Calls `action` on probe inputs.

    Raises:
      SwapRefused: it raises, or an action is not finite or outside integer bounds.
    """
    try:
        outputs = engine.run("action", probe_inputs(spec, engine.initial_state(ROWS), ROWS))
    except Exception as error:
        raise SwapRefused(f"the policy fails on probe inputs: {str(error)[:300]}") from error
    for path, leaf in leaves(spec.action, "action"):
        problem = outside_spec(outputs[leaf.name], leaf)
        if problem is not None:
            raise SwapRefused(f"{path} {problem} on probe inputs")
