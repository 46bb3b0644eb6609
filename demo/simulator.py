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

from demo.client import Client, RequestError
from demo.environments import Environments, Outcome
from demo.records import Answer, Episode, Report, Segment, Sighting

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
    """Play `environments` environments, and put a Report into `reports` every segment."""
    parent = os.getppid()
    played = Environments(environments, seed)
    notes = _Notes(number)
    with Client(address) as client:
        while not stop.is_set() and os.getppid() == parent:
            observation = played.observation
            try:
                answer = client.act(observation)
            except RequestError as failure:
                notes.failed(str(failure))
                _deliver(reports, notes.report(), parent)
                time.sleep(_REST_AFTER_FAILURE_S)
                continue
            notes.played(observation, answer, played.step(answer.action))
            if notes.steps == steps_per_segment:
                _deliver(reports, notes.report(with_segment=True), parent)
    _deliver(reports, notes.report(), parent)


def _deliver(reports: "Queue[Report]", report: Report, parent: int) -> None:
    """Wait for room in the queue, but not for a demo that is gone."""
    while os.getppid() == parent:
        try:
            reports.put(report, timeout=_DELIVERY_CHECK_S)
        except queue.Full:
            continue
        return
    reports.cancel_join_thread()


class _Notes:
    """What one simulator has seen since its last report."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._version = ""
        self._steps: list[tuple[NDArray[np.float32], Answer, Outcome]] = []
        self._begin_report()

    def _begin_report(self) -> None:
        self._episodes: list[Episode] = []
        self._sightings: list[Sighting] = []
        self._answers: Counter[str] = Counter()
        self._rows = 0
        self._failures: list[str] = []

    @property
    def steps(self) -> int:
        """Time steps in the segment so far."""
        return len(self._steps)

    def played(self, observation: NDArray[np.float32], answer: Answer, outcome: Outcome) -> None:
        """One request was answered and its actions were done."""
        self._steps.append((observation, answer, outcome))
        self._answers[answer.version] += 1
        self._rows += len(observation)
        if answer.version != self._version:
            self._version = answer.version
            self._sightings.append(Sighting(answer.version, answer.train_step, answer.at))
        self._episodes += [Episode(one, answer.train_step) for one in outcome.returns.values()]

    def failed(self, failure: str) -> None:
        """A request failed. Its observation is asked again, so the segment has no gap."""
        self._failures.append(failure)

    def report(self, with_segment: bool = False) -> Report:
        """Everything since the last report; the counters, and with a segment it too, begin anew."""
        report = Report(
            simulator=self._number,
            segment=_segment(self._steps) if with_segment else None,
            episodes=tuple(self._episodes),
            sightings=tuple(self._sightings),
            answers=dict(self._answers),
            rows=self._rows,
            failures=tuple(self._failures),
        )
        self._begin_report()
        if with_segment:
            self._steps = []
        return report


def _segment(steps: list[tuple[NDArray[np.float32], Answer, Outcome]]) -> Segment:
    """The steps of B environments, stacked along time."""
    observations, answers, outcomes = zip(*steps, strict=True)
    return Segment(
        observation=np.stack(observations),
        action=np.stack([answer.action for answer in answers]),
        logits=np.stack([answer.logits for answer in answers]),
        reward=np.stack([outcome.reward for outcome in outcomes]),
        next_observation=np.stack([outcome.next_observation for outcome in outcomes]),
        terminated=np.stack([outcome.terminated for outcome in outcomes]),
        truncated=np.stack([outcome.truncated for outcome in outcomes]),
        train_step=np.asarray([answer.train_step for answer in answers], np.int64),
    )
