"""A vector of CartPoles, stepped together: one session, one request a step.

python -m examples.gymnasium_vector http://localhost:8000 --policy cartpole --environments 64 --steps 500
"""

import argparse

import gymnasium
import numpy as np

from policy_client import RemotePolicy
from policy_client.gymnasium import VectorPolicy


def main() -> None:
    """Plays, and prints how many steps and episodes there were, and which weights answered last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--policy", default="cartpole")
    parser.add_argument("--environments", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()

    envs = gymnasium.make_vec("CartPole-v1", given.environments)
    reward, episodes = 0.0, 0
    with RemotePolicy(given.url, given.policy) as policy, VectorPolicy(policy, envs, reset_seed=0) as played:
        for _ in range(given.steps):
            transition = played.step()
            reward += float(np.sum(transition.reward))
            episodes += int(np.sum(transition.ended))
    envs.close()
    print(
        f"{given.steps} steps of {given.environments} environments, {episodes} episodes, reward {reward:.0f}, "
        f"weights {transition.answer.version}"
    )


if __name__ == "__main__":
    main()
