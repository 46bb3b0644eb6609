"""A version, pinned → the returns of fresh episodes that it plays through the service."""

import time

from app.testing import RunningServer
from demo.environments import Environments
from demo.messages import POLICY, DemoError, Evaluation
from demo.simulator import NO_RETRIES
from demo.statistics import Statistics
from policy_client import Action, PolicyError, RemotePolicy

_ATTEMPTS_AT_MOST = 20  # failures in a row; each one is counted and spoils the run anyway
_REST_AFTER_FAILURE_S = 0.1


def evaluate(server: RunningServer, version: str, episodes: int, seed: int, statistics: Statistics) -> Evaluation:
    """Plays one episode in each of `episodes` environments, side by side, with this version alone.

    An environment whose episode is over plays on, uncounted, until the last one is over, so that all requests have
    the same number of rows.
    """
    server.reload(POLICY, version)
    environments = Environments(episodes, seed)
    returns: dict[int, float] = {}
    train_step = 0
    with RemotePolicy(server.url, POLICY, retries=NO_RETRIES) as policy:
        while len(returns) < episodes:
            answer = _act(policy, environments, statistics)
            if answer.version != version:
                raise DemoError(f"{version} is pinned, and {answer.version} answered")
            train_step = answer.train_step
            for place, one in environments.step(answer.action).returns.items():
                returns.setdefault(place, one)
    return Evaluation(version, train_step, tuple(returns[place] for place in range(episodes)))


def _act(policy: RemotePolicy, environments: Environments, statistics: Statistics) -> Action:
    """Returns one answer; failures are counted."""
    observation = environments.time_step.observation
    for _ in range(_ATTEMPTS_AT_MOST):
        try:
            answer = policy.action(observation)
        except PolicyError as failure:
            statistics.evaluated(answers=0, rows=0, failures=(str(failure),))
            time.sleep(_REST_AFTER_FAILURE_S)
            last = failure
        else:
            statistics.evaluated(answers=1, rows=len(observation), failures=())
            return answer
    raise DemoError(f"{_ATTEMPTS_AT_MOST} requests in a row failed; the last: {last}")
