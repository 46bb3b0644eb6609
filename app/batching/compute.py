"""A batch of jobs → for each its rows of the outputs, or its error. Pure but for the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

import numpy as np

from app.batching.failures import explained
from app.batching.rows import parted
from app.batching.rule import INITIAL_STATE, Each, Job
from app.engine.base import Engine
from app.engine.chunks import join, split
from app.wire.tensors import Arrays

# A row's rounding may depend on the shape of its call and on its place in it: jobs that must come out the same
# at any load run in calls of this size.
SEEDED_BATCH_ROWS = 16
# Inputs, rows, the initial policy state where they start with it, and which rows do, where not all of them → all inputs
# that the functions take: `Defaults.complete`.
Complete: TypeAlias = "Callable[..., Arrays]"
# For each job its rows of each output, or its error.
Outcomes: TypeAlias = "Sequence[Arrays | Exception]"


def compute(
    engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete, apart: bool
) -> tuple[Outcomes, float | None]:
    """Runs a batch: one call for all jobs; where that fails, or they are to be `apart`, one call for each.

    Args:
      engine: of the version that answers.
      jobs: at least one, all of the same function.
      rows: of all of them together.
      complete: adds what they leave out.
      apart: whether no two jobs may share a call, as the rows of the policy depend on each other.

    Returns:
      For each job its rows of each output, or the error of that job alone, or `Each` where it has several requests; and
      the seconds that the one call took, None where it failed or there were others.
    """
    if not apart or (len(jobs) == 1 and jobs[0].requests == 1):
        try:
            started_at = perf_counter()
            outcomes = _call(engine, jobs, rows, complete, apart)
            return outcomes, perf_counter() - started_at
        except Exception as error:
            if len(jobs) == 1 and jobs[0].requests == 1:
                return [explained(error)], None
    return [_outcome(engine, job, complete, apart or len(jobs) == 1) for job in jobs], None


def _outcome(engine: Engine, job: Job, complete: Complete, apart: bool) -> Arrays | Exception:
    """That of one job; of each of its requests, where it has several that may not share a call, or fail together."""
    if job.requests == 1 or not apart:
        try:
            return _call(engine, [job], job.rows, complete, apart)[0]
        except Exception as error:
            if job.requests == 1:
                return explained(error)
    inputs = [{name: array[row : row + 1] for name, array in job.inputs.items()} for row in range(job.rows)]
    each = [Job(job.function, one, 1, job.needs_state) for one in inputs]
    return Each([_outcome(engine, one, complete, apart) for one in each])


def _call(engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete, apart: bool) -> Sequence[Arrays]:
    function = jobs[0].function
    if function == INITIAL_STATE:
        outputs = engine.initial_state(rows)
    else:
        inputs = gathered(engine, jobs, rows, complete)
        fixed = jobs[0].isolated and not apart
        outputs = _run_isolated(engine, function, inputs) if fixed else engine.run(function, inputs)
    if len(jobs) == 1:
        return [outputs]
    if len(jobs) == rows:
        return parted(outputs, rows)
    shares, start, items = [], 0, list(outputs.items())
    for job in jobs:
        end, share = start + job.rows, {}
        for name, array in items:
            share[name] = array[start:end]
        shares.append(share)
        start = end
    return shares


def gathered(engine: Engine, jobs: Sequence[Job], rows: int, complete: Complete) -> Arrays:
    """Returns the inputs of all jobs, one below the other, in `rows` rows; what they leave out is added.

    That is added once where all leave out the same. `engine`: gives the initial policy state.
    """
    first = jobs[0]
    if len(jobs) == 1:
        return completed(engine, first, complete)
    if _are_alike(jobs):
        together = _concatenated([job.inputs for job in jobs])
        return complete(together, rows, engine.initial_state(rows) if first.needs_state else None)
    return _concatenated([completed(engine, job, complete) for job in jobs])


def _are_alike(jobs: Sequence[Job]) -> bool:
    """Whether all leave out the same, and that can be added to all at once."""
    needs_state, names = jobs[0].needs_state, jobs[0].inputs.keys()
    for job in jobs:
        if job.needs_state is not needs_state or job.reset_mask is not None or job.inputs.keys() != names:
            return False
    return True


def completed(engine: Engine, job: Job, complete: Complete) -> Arrays:
    """Returns the inputs of one job, with what it leaves out."""
    initial = engine.initial_state(job.rows) if job.needs_state else None
    return complete(job.inputs, job.rows, initial, *([] if job.reset_mask is None else [job.reset_mask]))


def _concatenated(inputs: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def _run_isolated(engine: Engine, function: str, inputs: Arrays) -> Arrays:
    """Calls of exactly `SEEDED_BATCH_ROWS` rows: row i has the same place in a call of the same shape each time."""
    rows = len(next(iter(inputs.values())))
    return join([engine.run(function, piece) for piece in split(inputs, SEEDED_BATCH_ROWS)], rows)
