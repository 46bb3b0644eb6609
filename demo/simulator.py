"""One simulator, a process of its own: plays a session of the service and reports what happened.

It imports no TensorFlow. It runs until `stop` is set or the demo's own process is gone. What it saw the server has
recorded: nothing of it goes to the trainer from here.
"""

import os
import queue
import time
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

from demo.environments import Environments, TimeStep
from demo.messages import POLICY, Episode, Report, Sighting
from policy_client import Action, PolicyError, RemotePolicy, Retries, Session
from policy_client.fields import LAST

# The demo counts every failure: nothing is sent again unseen.
NO_RETRIES = Retries(limit=0)
_REST_AFTER_FAILURE_S = 0.1
_DELIVERY_CHECK_S = 1.0


def simulate(
    number: int,
    address: str,
    environments: int,
    steps_per_report: int,
    seed: int,
    reports: "Queue[Report]",
    stop: Event,
) -> None:
    """Plays `environments` environments, and puts a Report into `reports` every so many steps."""
    parent = os.getppid()
    played = Environments(environments, seed)
    seen = _Seen(number)
    session: Session | None = None
    with RemotePolicy(address, POLICY, retries=NO_RETRIES) as policy:
        while not stop.is_set() and os.getppid() == parent:
            try:
                answer, session = _asked(policy, session, played.time_step)
            except PolicyError as failure:
                seen.failed(str(failure))
                _deliver(reports, seen.report(), parent)
                time.sleep(_REST_AFTER_FAILURE_S)
                continue
            at = time.monotonic()
            seen.played(answer, played.time_step, played.step(answer.action), at)
            if seen.steps == steps_per_report:
                _deliver(reports, seen.report(), parent)
    _deliver(reports, seen.report(), parent)


def _asked(policy: RemotePolicy, session: Session | None, now: TimeStep) -> tuple[Action, Session]:
    """Asks for the actions of one time step of all environments; the first one begins the session."""
    if session is None:
        session = policy.session(now.observation)
        return session.answer, session
    answer = session.step(now.observation, step_type=now.step_type, reward=now.reward, discount=now.discount)
    return answer, session


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
        self._has_begun = False
        self._start_report()

    def _start_report(self) -> None:
        self.steps = 0  # answered since the last report
        self._episodes: list[Episode] = []
        self._sightings: list[Sighting] = []
        self._answers: Counter[str] = Counter()
        self._rows = self._environment_steps = self._followed = 0
        self._failures: list[str] = []

    def played(self, answer: Action, asked: TimeStep, outcome: TimeStep, at: float) -> None:
        """Records one request, answered at the moment `at`, and what its actions did."""
        rows = len(asked.observation)
        self.steps += 1
        self._answers[answer.version] += 1
        self._rows += rows
        self._environment_steps += int((asked.step_type != LAST).sum())
        self._followed += rows * self._has_begun  # with its answer the row of the step before is whole
        self._has_begun = True
        if answer.version != self._version:
            self._version = answer.version
            self._sightings.append(Sighting(answer.version, answer.train_step, at))
        self._episodes += [Episode(one, answer.train_step) for one in outcome.returns.values()]

    def failed(self, failure: str) -> None:
        """Records a failed request. Its observation is sent again, so the session has no gap."""
        self._failures.append(failure)

    def report(self) -> Report:
        """Returns everything since the last report; the counters start anew."""
        report = Report(
            simulator=self._number,
            episodes=tuple(self._episodes),
            sightings=tuple(self._sightings),
            answers=dict(self._answers),
            rows=self._rows,
            environment_steps=self._environment_steps,
            followed=self._followed,
            failures=tuple(self._failures),
        )
        self._start_report()
        return report
