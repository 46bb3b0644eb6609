"""Plays with an installed client: `python episode.py URL`. It runs in Python 3.9 and imports nothing of the project.

Prints what it saw, as JSON: the server's greedy actions for rows made here, asked in every way that the client has.
"""

import asyncio
import json
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np

import policy_client
from policy_client import AsyncRemotePolicy, DoesNotFit, NotFound, RemotePolicy, Retries, Unavailable

ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


def alone(url):
    """Requests without a session; a state that is carried."""
    with RemotePolicy(url, "cartpole") as policy:
        batch = policy.action(ROWS, mode="greedy").action.tolist()
        assert batch == [int(policy.action(row, mode="greedy").action) for row in ROWS]
        assert policy.describe()["name"] == "cartpole"
    with RemotePolicy(url, "boltzmann") as policy:
        drawn = policy.action(ROWS, mode="sample", seed=7, log_prob=True)
        assert drawn.log_prob.shape == (5,)
        assert policy.distribution(ROWS).distribution["parameters"]["logits"].shape == (5, 2)
    with RemotePolicy(url, "recurrent") as policy:
        state = policy.get_initial_state()
        for step, row in enumerate(ROWS):
            state = policy.action(row, policy_state=state, step_type=min(step, 1)).policy_state
    return batch


def nested(url):
    """Nests of tuples, and a named tuple that does not fit."""
    camera = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    body = (np.zeros((3, 3), np.float32), np.array([0, 9, 4], np.int32))
    with RemotePolicy(url, "nested") as policy:
        answer = policy.action({"camera": camera, "body": body})
        assert answer.action.shape == (3, 2)
        try:
            policy.action({"camera": camera, "body": namedtuple("Body", "joints gear")(*body)})
        except DoesNotFit as error:
            return [error.status, sorted({key for finding in error.errors for key in finding})]
    raise AssertionError("it fits")


def episode(url):
    """A session: an observation, its action, and so on until the episode ends."""
    actions = []
    with RemotePolicy(url, "recurrent") as policy, policy.session(ROWS[0], mode="greedy") as session:
        actions.append(int(session.answer.action))
        for row in ROWS[1:]:
            actions.append(int(session.step(row, reward=1.0).action))
        session.step(ROWS[0], reward=1.0, discount=0.0, step_type=2)
        begun = session.step(ROWS[0], first=True)
        assert int(begun.action) == actions[0]
    return actions


async def coroutines(url):
    """The same episode on asyncio, by three at a time."""

    async def played(policy):
        async with await policy.session(ROWS[0], mode="greedy") as session:
            actions = [int(session.answer.action)]
            for row in ROWS[1:]:
                actions.append(int((await session.step(row, reward=1.0)).action))
            return actions

    async with AsyncRemotePolicy(url, "recurrent") as policy:
        first, *others = await asyncio.gather(*(played(policy) for _ in range(3)))
    assert others == [first, first]
    return first


def refusals(url):
    """What is not there, and a server that is not there."""
    kinds = []
    for address, name, kind in ((url, "nobody", NotFound), ("http://127.0.0.1:9", "cartpole", Unavailable)):
        try:
            RemotePolicy(address, name, retries=Retries(limit=1, first_wait_s=0.001)).action(ROWS)
        except kind as error:
            kinds.append(type(error).__name__)
    return kinds


def late():
    """What a server's Retry-After may say, as far as Python's readers of dates go."""
    from policy_client.retries import _asked_s

    return [_asked_s(text) for text in ("2.5", "", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1, 2")]


def main(url):
    seen = {
        "file": str(Path(policy_client.__file__).parent),
        "version": policy_client.__version__,
        "numpy": np.__version__,
        "batch": alone(url),
        "nested": nested(url),
        "episode": episode(url),
        "coroutines": asyncio.run(coroutines(url)),
        "refusals": refusals(url),
        "late": late(),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
