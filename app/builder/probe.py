"""What a copy answers to probe inputs: it is published, and new weights have to answer what those before them did.

Probe inputs inform and choose the engine; they forbid nothing by themselves. A policy may well refuse an input that
fits its spec, or answer it with NaN: only what another version of it can answer is expected of a new one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.artifacts.bundle import Bundle, Graph, RowSharing
from app.background import rest
from app.engine.savedmodel.engine import TensorFlowEngine
from app.errors import SwapRefused
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec, leaves
from saver.artifact.probe import outside_spec, probe_inputs

ROWS = 4
# A row of images, or of a state of images, may take megabytes; of small rows a call has more, as it reads all weights.
_ROWS_A_CALL, _MOST_ROWS_A_CALL, _NUMBERS_A_CALL = 16, 64, 1 << 16
# A person reads them; the others are counted.
_MOST_LISTED = 8
_MOST_SHOWN = 60
_MOST_REASON = 200
_ALWAYS_DEFAULT = ("step_type", "reward", "discount")


@dataclass(frozen=True)
class Trial:
    """Inputs that a version is tried on before it may serve, and the version that it is compared with.

    `recorded`: inputs of real requests, one row each. `given`: more such rows with their names, from an operator.
    `serving`: the version that serves. What it answers, the new one has to answer too; before anything serves, a
    checkpoint is compared with the export's own weights, and these with nothing.
    """

    recorded: Sequence[Arrays] = ()
    given: Sequence[tuple[str, Arrays]] = ()
    serving: tuple[Graph, Bundle] | None = None

    @property
    def rows(self) -> list[Arrays]:
        """The inputs, one row each: the operator's first."""
        return [row for _, row in self.given] + list(self.recorded)


NO_TRIAL = Trial()


@dataclass(frozen=True)
class Probe:
    """One row: [1, …] by flattened name, without policy state where it starts from the initial one.

    `recorded`: it is of a real request. `problem` says what a version made of it; "" where that is in order.
    `comparable`: it was answered, with finite numbers.
    """

    name: str
    inputs: Arrays
    recorded: bool = False
    problem: str = ""
    comparable: bool = False


@dataclass(frozen=True)
class Probed:
    """Probes with what one version made of them. `one_row`: it answers single rows, and fails on several at once."""

    probes: tuple[Probe, ...]
    one_row: bool = False

    @property
    def sharing(self) -> RowSharing:
        """Which rows may share a call, as far as it is known before rows have been compared with each other."""
        return RowSharing(one_row=self.one_row)

    @property
    def failed(self) -> list[Probe]:
        """The probes that it refused, or answered with something that its spec excludes."""
        return [probe for probe in self.probes if probe.problem]

    @property
    def any_answered(self) -> bool:
        """Whether something can be said of how it answers."""
        return any(probe.comparable for probe in self.probes)

    @property
    def why_unchecked(self) -> str:
        """Why no other engine can be compared with it; "" where it can."""
        if self.one_row:
            return "it answers one row a call only"
        if self.any_answered:
            return ""
        first = self.failed[0]
        return (
            f"no probe input is answered, so that LiteRT's answers cannot be compared ({first.name}: {first.problem})"
        )

    def public(self) -> dict[str, Any]:
        """A summary for the policy's description, as JSON."""
        failed = self.failed
        listed = [f"{probe.name}: {probe.problem}" for probe in failed[:_MOST_LISTED]]
        more = [f"and {len(failed) - _MOST_LISTED} more"] if len(failed) > _MOST_LISTED else []
        return {"asked": len(self.probes), "answered": len(self.probes) - len(failed), "problems": listed + more}


def probes_of(
    spec: PolicySpec, given: Sequence[tuple[str, Arrays]] = (), recorded: Sequence[Arrays] = ()
) -> list[Probe]:
    """Rows made from the spec, those that an operator has given by name, and those of real requests."""
    return [*probes_of_spec(spec), *probes_of_requests(spec, given, recorded)]


def probes_of_spec(spec: PolicySpec) -> list[Probe]:
    """Rows made from the spec alone."""
    unknown = {leaf.name: np.zeros(ROWS) for _, leaf in leaves(spec.initial_state)}
    state = spec.state_inputs(unknown)
    whole = {name: array for name, array in probe_inputs(spec, unknown, ROWS).items() if name not in state}
    rows = [{name: array[row : row + 1] for name, array in whole.items()} for row in range(ROWS)]
    return [Probe(f"probe input {number} ({_shown(spec, row)})", row) for number, row in enumerate(rows, 1)]


def probes_of_requests(
    spec: PolicySpec, given: Sequence[tuple[str, Arrays]], recorded: Sequence[Arrays]
) -> list[Probe]:
    """Rows that an operator has given by name, and those of real requests."""
    wanted = spec.signatures["action"].inputs
    return [
        *(Probe(name, _known(row, wanted)) for name, row in given),
        *(Probe("an input of a real request", _known(row, wanted), recorded=True) for row in recorded),
    ]


def examine(engine: TensorFlowEngine, spec: PolicySpec, probes: Sequence[Probe]) -> Probed:
    """Asks for the action: many rows at once where the policy takes that, else one by one."""
    engine.sharing = RowSharing()
    together = _together(engine, spec, probes)
    if together is not None:
        return Probed(tuple(together))
    asked, one_row, settled = [], False, False
    for probe in probes:
        alone = _answers(engine, spec, [probe.inputs])
        if isinstance(alone, str):
            asked.append(replace(probe, problem=alone))
            continue
        asked.append(_answered(probe, spec, alone, 0))
        if spec.batch_size is None and not settled:  # a row that is answered alone, and not beside itself
            one_row, settled = isinstance(_answers(engine, spec, [probe.inputs] * 2), str), True
    return Probed(tuple(asked), one_row)


def _together(engine: TensorFlowEngine, spec: PolicySpec, probes: Sequence[Probe]) -> list[Probe] | None:
    """The probes with what was made of them; None where a call fails."""
    asked: list[Probe] = []
    shapes = [tensor.shape for tensor in spec.signatures["action"].inputs.values()]  # those of the state, too
    each = sum(math.prod(size or 1 for size in shape) for shape in shapes)
    rows = min(max(_ROWS_A_CALL, _NUMBERS_A_CALL // max(1, each)), _MOST_ROWS_A_CALL)
    for start in range(0, len(probes), rows):
        piece = probes[start : start + rows]
        outputs = _answers(engine, spec, [probe.inputs for probe in piece])
        if isinstance(outputs, str):
            return None
        asked += [_answered(probe, spec, outputs, row) for row, probe in enumerate(piece)]
    return asked


def check_no_worse(found: Probed, before: Probed) -> None:
    """Compares a version with the one before it, which was asked what this one failed on.

    Raises:
      SwapRefused: it fails on an input that the other one answered.
    """
    for probe, other in zip(found.failed, before.probes, strict=True):
        if not other.problem:
            # For now: the requests of a minute later are others, and one odd caller must not block a policy.
            raise SwapRefused(f"{probe.problem} on {probe.name}", for_now=probe.recorded)


def _answers(engine: TensorFlowEngine, spec: PolicySpec, rows: Sequence[Arrays]) -> Arrays | str:
    """The outputs of `action`, or what went wrong. A row without policy state starts from the initial one."""
    rest()
    try:
        initial = spec.state_inputs(engine.initial_state(len(rows)))
        # Those of the rows that have none of their own, one below the other.
        wholes = [{name: array[at : at + 1] for name, array in initial.items()} | row for at, row in enumerate(rows)]
        return engine.run("action", {name: np.concatenate([whole[name] for whole in wholes]) for name in wholes[0]})
    except Exception as error:  # whatever a graph makes TensorFlow raise
        lines = str(error).strip().splitlines()
        return f"the policy fails: {lines[0][:_MOST_REASON] if lines else type(error).__name__}"


def _answered(probe: Probe, spec: PolicySpec, outputs: Arrays, row: int) -> Probe:
    for path, leaf in leaves(spec.action, "action"):
        value = outputs[leaf.name][row : row + 1]
        problem = outside_spec(value, leaf)
        if problem is not None:
            finite = not leaf.is_float or bool(np.isfinite(value.astype(np.float64)).all())
            return replace(probe, problem=f"{path} {problem}", comparable=finite)
    return replace(probe, problem="", comparable=True)


def _known(row: Arrays, wanted: Mapping[str, Any]) -> Arrays:
    return {name: array for name, array in row.items() if name in wanted}


def _text(array: np.ndarray[Any, Any]) -> str:
    """The only row of an array, as somebody would read it."""
    return np.array2string(array.reshape(array.shape[1:]), threshold=6, edgeitems=2)


def _shown(spec: PolicySpec, row: Arrays) -> str:
    """The fields of a row that somebody would send."""
    nests = spec.inputs if isinstance(spec.inputs, dict) and spec.takes_time_step else {"": spec.inputs}
    shown = [
        f"{path} {_text(row[leaf.name])}"
        for top, nest in nests.items()
        if top not in (*_ALWAYS_DEFAULT, "policy_state")
        for path, leaf in leaves(nest, top)
    ]
    text = " ".join(", ".join(shown).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
