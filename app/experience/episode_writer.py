"""The steps of a connection that is a session itself → a worker's journal: each episode is a start of the session."""

from __future__ import annotations

import secrets
from dataclasses import replace

from app.batching.rule import Job, Result
from app.experience.event import Who
from app.experience.writing import StepWriter
from app.inputs.options import Options


class EpisodeWriter:
    """Writes the steps of one connection, in the names of its sessions: its own, or those that its messages have."""

    def __init__(self, writer: StepWriter) -> None:
        self._writer = writer
        self._run_id = secrets.token_hex(8)
        self._who: Who | None = None
        self._step = 0
        self._rows = 0

    def write(
        self, begins: bool, session: str | None, options: Options, job: Job, result: Result, noise_step: int
    ) -> None:
        """Writes an answered step.

        `begins`: it is the first of an episode; `session`: None for the connection's; `noise_step`: the one whose noise
        its seed gave it.
        """
        if begins or job.rows != self._rows:
            who = Who(session or self._run_id, self._run_id, secrets.token_hex(8))
            self._who = who if self._writer.is_recorded(who.session, None) else None
            self._step, self._rows = 0, job.rows
        if self._who is not None:
            if options.seed is not None and job.function == "sample" and noise_step != self._step:
                options = replace(options, seed=None)  # by the seed and its own step a row's noise is found again
            self._writer.record_now(self._who.session, self._who, self._step, options, job, result)
        self._step += 1
