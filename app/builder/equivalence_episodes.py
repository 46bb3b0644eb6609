"""A policy with state on two engines, whole episodes: each engine is given back its own state.

What is rounding in one answer grows from step to step. So here floats have to stay within the tolerance, with nothing
forgiven, over as many steps as rounding needs to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from app.builder.equivalence_inputs import random_inputs
from app.builder.row_comparison import Pair, Unequal, differing_rows
from app.engine.base import InputRefused
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec, leaves

STEPS = 24
_ROWS = 4
# Of the observations without bounds: those of the first rows, and of the others.
_SCALES = (1.0, 20.0)


def check_episodes(pair: Pair, function: str, steps: int = STEPS) -> None:
    """Plays an episode in each row on both engines; nothing for policies without state.

    Args:
      pair: the two engines.
      function: `action`, or `sample` where that draws.
      steps: of an episode.

    Raises:
      Unequal: a float differs by more than 1e-5 + 1e-5·|x|, or an integer of the state at all.
    """
    spec, compiled, reference = pair.spec, pair.compiled, pair.reference
    names = _fed_back(spec)
    if not names:
        return
    rows = spec.batch_size or _ROWS
    states = [spec.state_inputs(engine.initial_state(rows)) for engine in (compiled, reference)]
    for step, inputs in enumerate(_steps(spec, rows, steps)):
        noise = pair.noise_of(function, rows, step)
        try:
            expected = reference.run(function, inputs | noise | states[1])
            found = compiled.run(function, inputs | noise | states[0])
        except InputRefused:
            return  # single calls have shown that both refuse the same
        compared = {
            name for name, array in expected.items() if name in names or np.issubdtype(array.dtype, np.floating)
        }
        for name in sorted(compared & found.keys()):
            if differing_rows({name: found[name]}, {name: expected[name]}).any():
                most = np.abs(found[name] - expected[name].astype(np.float64)).max()
                raise Unequal(f"{function}: {name} differs by {most:.2g} at step {step + 1} of an episode")
        states = [{names[name]: answer[name] for name in names} for answer in (found, expected)]


def _fed_back(spec: PolicySpec) -> dict[str, str]:
    """The inputs that take the state, by the names of the outputs that give it."""
    state: Any = spec.inputs.get("policy_state", ()) if isinstance(spec.inputs, dict) else ()
    taken = {path: leaf.name for path, leaf in leaves(state)}
    return {leaf.name: taken[path] for path, leaf in leaves(spec.state) if path in taken}


def _steps(spec: PolicySpec, rows: int, steps: int) -> Iterator[Arrays]:
    """Inputs without state: the first of an episode, and others; the last row starts a new episode half way."""
    generator = np.random.default_rng(0)
    for step in range(steps):
        parts = [random_inputs(spec, rows, scale, generator) for scale in _SCALES]
        inputs = {name: np.concatenate([parts[0][name][: rows // 2], parts[1][name][rows // 2 :]]) for name in parts[0]}
        if spec.takes_time_step and isinstance(spec.inputs, dict):
            for _, leaf in leaves(spec.inputs["step_type"]):
                inputs[leaf.name][:] = 1 if step else 0
                inputs[leaf.name][-1:] = 0 if step in (0, steps // 2) else 1
        yield inputs
