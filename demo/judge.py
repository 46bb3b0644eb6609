"""A version, pinned → the returns of fresh episodes that it plays through the service."""

import time

from demo.client import Client, RequestError
from demo.environments import Environments
from demo.ledger import Ledger
from demo.records import Answer, DemoError, Verdict

_ATTEMPTS_AT_MOST = 20  # failures in a row; each one is counted and spoils the run anyway
_REST_AFTER_FAILURE_S = 0.1


def judge(client: Client, version: str, episodes: int, seed: int, ledger: Ledger) -> Verdict:
    """Play one episode in each of `episodes` environments, side by side, with this version alone.

    An environment whose episode is over plays on unjudged until the last one is over, so that all
    requests have the same number of rows.
    """
    client.pin(version)
    environments = Environments(episodes, seed)
    returns: dict[int, float] = {}
    train_step = 0
    while len(returns) < episodes:
        answer = _act(client, environments, ledger)
        if answer.version != version:
            raise DemoError(f"{version} is pinned, and {answer.version} answered")
        train_step = answer.train_step
        for place, one in environments.step(answer.action).returns.items():
            returns.setdefault(place, one)
    return Verdict(version, train_step, tuple(returns[place] for place in range(episodes)))


def _act(client: Client, environments: Environments, ledger: Ledger) -> Answer:
    """One answer; failures are counted."""
    for _ in range(_ATTEMPTS_AT_MOST):
        try:
            answer = client.act(environments.observation)
        except RequestError as failure:
            ledger.judged(answers=0, rows=0, failures=(str(failure),))
            time.sleep(_REST_AFTER_FAILURE_S)
            last = failure
        else:
            ledger.judged(answers=1, rows=len(environments.observation), failures=())
            return answer
    raise DemoError(f"{_ATTEMPTS_AT_MOST} requests in a row failed; the last: {last}")
