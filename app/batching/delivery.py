"""The outcomes of a batch → what each job's waiter gets, and the jobs that the active version has to answer instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.batching.compute import Outcomes
from app.batching.failures import fail_all, why_failed
from app.batching.rule import Each, Job, Result
from app.engine.base import Engine, InputRefused
from app.errors import DoesNotFit, Problem, WeightsGone
from app.versions.lease import LoadedVersion, VersionInfo
from app.wire.tensors import Arrays


class Traffic(Protocol):
    """What is tried beside the active version: see `app.traffic.arms.Arms`."""

    def delivers(
        self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], outcomes: Outcomes, now: float, waits: bool
    ) -> None:
        """Notes what a version answers, before it is delivered.

        Args:
          loaded: the version.
          jobs: those of a batch.
          outcomes: for each its outputs, or an error.
          now: on the event loop's clock.
          waits: whether others wait for an answer.
        """


def without_failed(jobs: Sequence[Job], outcomes: Outcomes) -> tuple[Sequence[Job], Outcomes, list[Job]]:
    """Parts jobs that fall back, and whose outcome is no answer, from the others and their outcomes."""
    if not any(job.falls_back for job in jobs):
        return jobs, outcomes, []
    good: list[Job] = []
    answers: list[Arrays | Exception] = []
    failed: list[Job] = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        job.failed = why_failed(outcome) if job.falls_back else ""
        if job.failed:
            failed.append(job)
        else:
            good.append(job)
            answers.append(outcome)
    return good, answers, failed


def refuse_gone(version: VersionInfo, jobs: Sequence[Job]) -> list[Job]:
    """Fails jobs whose version is gone; returns those that fall back, to wait as `fallen_back` says."""
    waiting = fallen_back([job for job in jobs if job.falls_back])
    gone = WeightsGone(f"the weights of version {version.name} are not kept any more")
    fail_all([job for job in jobs if job.loaded is not None], gone)
    return waiting


def fallen_back(jobs: Sequence[Job]) -> list[Job]:
    """Has jobs wait for the version that serves; returns them, the last one first."""
    for job in jobs:
        job.loaded, job.falls_back = None, False
    return [*reversed(jobs)]


def deliver(version: VersionInfo, jobs: Sequence[Job], outcomes: Outcomes, fields: str) -> None:
    """Gives each job that somebody waits for its result, or its error. `fields`: see `BatcherParts`."""
    name, train_step, digest = version.name, version.train_step, version.digest
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.waiter.done():
            continue
        if not isinstance(outcome, Exception):
            job.waiter.set_result(Result(outcome, name, train_step, digest))
        elif isinstance(outcome, Each):
            each = [
                _refusal(one, fields) if isinstance(one, Exception) else Result(one, name, train_step, digest)
                for one in outcome.outcomes
            ]
            job.waiter.set_exception(Each(each))
        else:
            job.waiter.set_exception(_refusal(outcome, fields))


def _refusal(error: Exception, fields: str) -> Exception:
    """An error as a caller sees it, who knows the names of the fields."""
    if not isinstance(error, InputRefused):
        return error
    return DoesNotFit([Problem(fields, f"the policy refused it: {error}", "an input it accepts")])
