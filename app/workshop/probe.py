"""Whether a copy answers probe inputs with something that the policy may give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.engine.base import Arrays, Engine
from app.errors import SwapRefused
from saver.artifact import PolicySpec, leaves
from saver.artifact.probe import outside_spec, probe_inputs

ROWS = 4
_RECORDED = "an input of a real request"


def check(engine: Engine, spec: PolicySpec, recorded: Sequence[Arrays] = ()) -> None:
    """Calls `action` on probe inputs, and on `recorded` ones: inputs of real requests.

    A recorded row without policy state starts from the initial one.

    Raises:
      SwapRefused: it raises, or an action is not finite or outside integer bounds.
    """
    _answer(engine, spec, lambda: probe_inputs(spec, engine.initial_state(ROWS), ROWS), "probe inputs")
    for row in recorded:
        known = {name: row[name] for name in spec.signatures["action"].inputs if name in row}
        try:
            _answer(engine, spec, lambda: spec.state_inputs(engine.initial_state(1)) | known, _RECORDED)  # noqa: B023
        except SwapRefused as refusal:
            # For now: the requests of a minute later are others, and one odd caller must not block a policy.
            raise SwapRefused(str(refusal), for_now=True) from refusal


def _answer(engine: Engine, spec: PolicySpec, inputs: Callable[[], Arrays], named: str) -> None:
    try:
        outputs = engine.run("action", inputs())
    except Exception as error:
        raise SwapRefused(f"the policy fails on {named}: {str(error)[:300]}") from error
    for path, leaf in leaves(spec.action, "action"):
        problem = outside_spec(outputs[leaf.name], leaf)
        if problem is not None:
            raise SwapRefused(f"{path} {problem} on {named}")
