"""A version that is asked what the active one was asked, and answers nobody: it is compared, at the lowest priority.

The event loop owns the queue; asking and comparing runs in a thread of its own, which gets what the machine has left
over. What comes within a moment is asked together, so that the thread seldom needs Python's lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from app.batching.compute import Outcomes
from app.batching.rule import INITIAL_STATE, Job
from app.engine.base import Engine
from app.errors import SwapRefused, is_passing
from app.offload import in_executor
from app.rpc.messages import Arm, ShadowFigures
from app.traffic.asking import Asking, Sent
from app.traffic.load import Load
from app.versions.active import Loader
from app.versions.lease import LoadedVersion
from app.versions.loader import BundleLoader
from app.wire.tensors import Arrays

log = logging.getLogger("policy_server.traffic")

# Of what is asked together. Each request takes the thread some microseconds with Python's lock, for which the event
# loop may have to wait: so many come to less than a hundredth of the time. What more rows take, the engine does.
MOST_REQUESTS, MOST_ROWS, MOST_BYTES = 64, 4096, 32 << 20
# Of the time for which the process works or waits for a core: above it, those who wait for an answer come first.
BUSY = 0.75
# What comes within this time is one call.
COLLECT_S = 0.1
_LOWEST_PRIORITY = 19


class Shadow:
    """The shadow of one policy in this worker. Event loop only. `share`: of the answers, those that are compared."""

    def __init__(self, arm: Arm, loader: Loader) -> None:
        self.digest, self.share = arm.bundle.digest, arm.share
        self._asking = Asking(arm, loader)
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, "shadow")
        self._load = Load()
        self._waiting: list[Sent] = []
        self._rows = self._bytes = 0
        self._round: asyncio.TimerHandle | asyncio.Future[ShadowFigures] | None = None
        self._figures = ShadowFigures()
        self._skipped = 0
        self._closed = False

    async def open(self) -> None:
        """Loads the version.

        Raises:
          SwapRefused: this process cannot load it.
        """
        try:
            thread = await in_executor(self._executor, self._start)
        except Exception as error:
            self.close()
            if isinstance(error, SwapRefused):
                raise
            text = f"it cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
            raise SwapRefused(text, is_passing(error)) from error
        self._load.leave_out(thread)

    def _start(self) -> int:
        """Runs in the thread, whose number it returns: once loaded, only what others leave over is its."""
        self._asking.load()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        return threading.get_ident()

    def close(self) -> None:
        """Asks nothing more, and forgets what waits."""
        self._closed = True
        if self._round is not None and not isinstance(self._round, asyncio.Future):
            self._round.cancel()
        self._waiting = []
        self._load.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def take_figures(self) -> ShadowFigures:
        """Returns what was found since the last call."""
        found = self._figures.joined(ShadowFigures(skipped=self._skipped))
        self._figures, self._skipped = ShadowFigures(), 0
        return found

    def offer(
        self, loaded: LoadedVersion[Engine], jobs: Sequence[Job], outcomes: Outcomes, now: float, waits: bool
    ) -> None:
        """Takes a share of what the active version answers; what there is no time for is counted as skipped.

        Args:
          loaded: the active version.
          jobs: those of a batch.
          outcomes: for each its outputs, or an error.
          now: on the event loop's clock.
          waits: whether others wait for an answer.
        """
        if jobs and jobs[0].function == INITIAL_STATE:
            return
        busy = waits or self._load.at(now) > BUSY
        if busy and self.share >= 1:  # as below, in less time
            answered = zip(jobs, outcomes, strict=True)
            self._skipped += sum([job.rows for job, outcome in answered if not isinstance(outcome, Exception)])
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                continue
            if self.share < 1 and random.random() >= self.share:
                continue
            if busy or len(self._waiting) == MOST_REQUESTS or (self._rows and self._rows + job.rows > MOST_ROWS):
                self._skipped += job.rows
            else:
                self._take(loaded, job, {name: outcome[name] for name in self._asking.names(job.function)})

    def _take(self, loaded: LoadedVersion[Engine], job: Job, outputs: Arrays) -> None:
        size = sum(array.nbytes for arrays in (job.inputs, outputs) for array in arrays.values())
        if not outputs or self._bytes + size > MOST_BYTES:
            self._skipped += job.rows
            return
        # Not the job itself, which keeps its connection.
        kept = Job(job.function, job.inputs, job.rows, job.needs_state, reset_mask=job.reset_mask)
        self._waiting.append(Sent(kept, outputs, loaded))
        self._rows, self._bytes = self._rows + job.rows, self._bytes + size
        if self._round is None:
            self._round = self._loop.call_later(COLLECT_S, self._ask)

    def _ask(self) -> None:
        sent, self._waiting = self._waiting, []
        self._rows = self._bytes = 0
        self._round = self._loop.run_in_executor(self._executor, self._asking.compared, sent)
        self._round.add_done_callback(self._compared)

    def _compared(self, done: asyncio.Future[ShadowFigures]) -> None:
        self._round = None
        if self._closed or done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._figures = self._figures.joined(done.result())
        else:  # a bug of ours: its rows are not counted, and those that wait go on
            log.error("answers of a shadow were not compared", exc_info=error)
        if self._waiting:
            self._round = self._loop.call_later(COLLECT_S, self._ask)


def with_own_engine(arm: Arm) -> Shadow:
    """Makes a shadow that loads engines of its own."""
    return Shadow(arm, BundleLoader())
