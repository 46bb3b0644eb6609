"""Sessions of a policy that tries a canary: which version their steps run on, and what each arm has come to."""

from __future__ import annotations

from typing import Any

from app.batching.rule import Job
from app.inference.policy import Policy
from app.inputs.names import top_level
from app.sessions.record import Record, Run, Sums
from app.traffic.assignment import ACTIVE, CANARY
from app.traffic.sums import finished, followed
from app.versions.lease import LoadedVersion
from saver.artifact import leaves

_REWARD = "reward"


def use_canary(job: Job, loaded: LoadedVersion[Any] | None) -> None:
    """Has a version answer a job where it is there, and new enough; else, and where it fails, the active one does."""
    if loaded is not None and (job.min_train_step is None or loaded.version.train_step >= job.min_train_step):
        job.loaded, job.falls_back = loaded, True


class Counting:
    """Counts the sessions and episodes of one policy by their arms. `step_type`: its name among the inputs."""

    def __init__(self, policy: Policy, step_type: str) -> None:
        self._policy = policy
        self._step_type = step_type
        nest = top_level(policy.spec).get(_REWARD, ())
        names = [leaf.name for _, leaf in leaves(nest)]
        self._reward = names[0] if len(names) == 1 else ""

    def sums(self, before: Record | None, job: Job) -> Sums | None:
        """Returns what is known of a session's episodes after a step; None where no canary is tried."""
        canary = self._policy.arms.canary
        if canary is None:
            return None
        digest, known, ended = canary.version.digest, None, None
        if before is not None and before.sums is not None and before.sums.canary == digest:
            known, ended = before.sums.rows, before.ended
        types, reward = job.inputs[self._step_type], job.inputs.get(self._reward)
        return Sums(digest, followed(known, ended, types, reward))

    def count(self, after: Record, job: Job) -> None:
        """Counts a step that was stored, where that began a session or ended episodes."""
        arms, sums = self._policy.arms, after.sums
        if arms.canary is None or sums is None or arms.canary.version.digest != sums.canary:
            return
        arm = self._arm(after.run, sums.canary)
        if not arm:
            return
        if after.step == 0:
            arms.begun(arm)
        arms.ended(arm, finished(sums.rows, job.inputs[self._step_type]))

    def _arm(self, run: Run, canary: str) -> str:
        """The arm that a session counts for; "" where it keeps a version that is in none."""
        if run.arm == canary:
            return CANARY if run.retained in (None, canary) else ""
        return ACTIVE if run.retained in (None, self._policy.versions.active.version.digest) else ""
