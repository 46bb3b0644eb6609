"""What the waiter of a job gets instead of a result: an error that a caller may see."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import numpy as np

from app.batching.rule import Job
from app.engine.base import InputRefused
from app.errors import EngineFailed, PolicyServerError
from app.wire.tensors import Arrays
from saver.artifact import LOG_PROB

log = logging.getLogger("policy_server.batching")

T = TypeVar("T")
Args = TypeVarTuple("Args")


def fail(job: Job, error: Exception) -> None:
    """Gives a job an error, unless nobody waits for it any more."""
    if not job.waiter.done():
        job.waiter.set_exception(error)


def fail_all(jobs: Sequence[Job], error: Exception) -> None:
    """Gives all jobs one error, as a caller may see it."""
    for_callers = explained(error)
    for job in jobs:
        fail(job, for_callers)


def explained(error: Exception) -> Exception:
    """Returns an error as a caller may see it; one of the engine's own goes to the log.

    Inputs that the policy refused stay as they are: the batcher knows the names of its fields.
    """
    if isinstance(error, (PolicyServerError, InputRefused)):
        return error
    log.error("the engine failed", exc_info=error)
    return EngineFailed(f"the policy failed: {type(error).__name__}")


def guarded(call: Callable[[*Args], T], *args: *Args) -> T | None:
    """Returns what a call returns; None where it raises, which is a bug of ours, and is logged: others go on."""
    try:
        return call(*args)
    except Exception as error:
        note_bug(error)
        return None


def note_bug(error: Exception) -> None:
    """Logs an error that is a bug of ours."""
    log.error("a batch, or what belongs to one, was not finished", exc_info=error)


def why_failed(outcome: Arrays | Exception) -> str:
    """Returns why an outcome is no answer: an error, or numbers that are not finite; "" where it is one."""
    if isinstance(outcome, Exception):
        return str(outcome) or type(outcome).__name__
    for name, array in outcome.items():
        if array.dtype.kind == "f":
            # An action that cannot happen has -inf.
            bad = np.isnan(array) if name == LOG_PROB else ~np.isfinite(array)
            if bad.any():
                return f"the answer is not finite: {name}"
    return ""
