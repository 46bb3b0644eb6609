"""Plays vector environments with an installed client and Gymnasium, reset both ways: `python vector.py URL`."""

import json
import sys

import gymnasium
from gymnasium.vector import AutoresetMode

from policy_client import RemotePolicy
from policy_client.gymnasium import VectorPolicy


def played(url, mode):
    """Whole episodes of three CartPoles: their number, and whether each step was rewarded but those that reset."""
    envs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    ended = reward = ignored = 0
    with RemotePolicy(url, "cartpole") as policy, VectorPolicy(policy, envs, reset_seed=0) as vector:
        for _ in range(80):
            transition = vector.step()
            ended += int(transition.ended.sum())
            ignored += int(transition.ignored.sum())
            reward += float(transition.reward[~transition.ignored].sum())
    assert reward + ignored == 240, (reward, ignored)
    return ended


if __name__ == "__main__":
    modes = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    print(json.dumps({"gymnasium": gymnasium.__version__, "ended": [played(sys.argv[1], mode) for mode in modes]}))
