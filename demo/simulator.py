"""One simulator, a process of its own: plays through the service and reports what happened.

It imports no TensorFlow. It runs until `stop` is set or the demo's own process is gone.
"""

import os
import queue
import time
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

import numpy as np
from numpy.typing import NDArray

from demo.environments import Environments, Outcome
from demo.messages import POLICY, Episode, Report, Segment, Sighting
from policy_client import Action, PolicyError, RemotePolicy, Retries

# The demo counts every failure: nothing is sent again unseen.
NO_RETRIES = Retries(limit=0)
_REST_AFTER_FAILURE_S = 0.1
_DELIVERY_CHECK_S = 1.0


def simulate(
    number: int,
    address: str,
    environments: int,
    steps_per_segment: int,
    seed: int,
    reports: "Queue[Report]",
    stop: Event,
) -> None:
    """Plays `environments` environments, and puts a Report into `reports` every segment."""
    parent = os.getppid()
    played = Environments(environments, seed)
    seen = _Seen(number)
    with RemotePolicy(address, POLICY, retries=NO_RETRIES) as policy:
        while not stop.is_set() and os.getppid() == parent:
            observation = played.observation
            try:
                answer = policy.action(observation)
            except PolicyError as failure:
                seen.failed(str(failure))
                _deliver(reports, seen.report(), parent)
                time.sleep(_REST_AFTER_FAILURE_S)
                continue
            at = time.monotonic()
            seen.played(observation, answer, played.step(answer.action), at)
            if seen.steps == steps_per_segment:
                _deliver(reports, seen.report(with_segment=True), parent)
    _deliver(reports, seen.report(), parent)


def _deliver(reports: "Queue[Report]", report: Report, parent: int) -> None:
    """Waits for room in the queue, but not for a demo that is gone."""
    while os.getppid() == parent:
        try:
            reports.put(report, timeout=_DELIVERY_CHECK_S)
        except queue.Full:
            continue
        return
    reports.cancel_join_thread()


class _Seen:
    """What happened in one simulator since its last report."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._version = ""
        self._steps: list[tuple[NDArray[np.float32], Action, Outcome]] = []
        self._start_report()

    def _start_report(self) -> None:
        self._episodes: list[Episode] = []
        self._sightings: list[Sighting] = []
        self._answers: Counter[str] = Counter()
        self._rows = 0
        self._failures: list[str] = []

    @property
    def steps(self) -> int:
        """The count of time steps in the segment so far."""
        return len(self._steps)

    def played(self, observation: NDArray[np.float32], answer: Action, outcome: Outcome, at: float) -> None:
        """Records one request, answered at the moment `at`, and what its actions did."""
        self._steps.append((observation, answer, outcome))
        self._answers[answer.version] += 1
        self._rows += len(observation)
        if answer.version != self._version:
            self._version = answer.version
            self._sightings.append(Sighting(answer.version, answer.train_step, at))
        self._episodes += [Episode(one, answer.train_step) for one in outcome.returns.values()]

    def failed(self, failure: str) -> None:
        """Records a failed request. Its observation is sent again, so the segment has no gap."""
        self._failures.append(failure)

    def report(self, with_segment: bool = False) -> Report:
        """Returns everything since the last report; the counters, and with a segment it too, start anew."""
        report = Report(
            simulator=self._number,
            segment=_segment(self._steps) if with_segment else None,
            episodes=tuple(self._episodes),
            sightings=tuple(self._sightings),
            answers=dict(self._answers),
            rows=self._rows,
            failures=tuple(self._failures),
        )
        self._start_report()
        if with_segment:
            self._steps = []
        return report


def _segment(steps: list[tuple[NDArray[np.float32], Action, Outcome]]) -> Segment:
    """The steps of B environments, stacked along time."""
    observations, answers, outcomes = zip(*steps, strict=True)
    return Segment(
        observation=np.stack(observations),
        action=np.stack([answer.action for answer in answers]),
        logits=np.stack([answer.info["dist_params"]["logits"] for answer in answers]),
        reward=np.stack([outcome.reward for outcome in outcomes]),
        next_observation=np.stack([outcome.next_observation for outcome in outcomes]),
        terminated=np.stack([outcome.terminated for outcome in outcomes]),
        truncated=np.stack([outcome.truncated for outcome in outcomes]),
        train_step=np.asarray([answer.train_step for answer in answers], np.int64),
    )
