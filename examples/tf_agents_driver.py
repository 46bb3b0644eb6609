"""TF-Agents' PyDriver on a policy of the server, evaluated with greedy actions.

python -m examples.tf_agents_driver http://localhost:8000 --policy cartpole --episodes 5
"""

import argparse
import importlib.util
import os

if importlib.util.find_spec(
    "tf_keras"
):  # TF-Agents needs Keras 2; TensorFlow 2.15 has it, newer ones take it from here
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import gymnasium
import numpy as np
from tf_agents.drivers import py_driver
from tf_agents.environments import py_environment
from tf_agents.specs import ArraySpec, BoundedArraySpec
from tf_agents.trajectories import time_step as ts

from policy_client import RemotePolicy
from policy_client.tf_agents import RemotePyPolicy


class CartPole(py_environment.PyEnvironment):
    """Gymnasium's CartPole as TF-Agents has environments."""

    def __init__(self, seed: int) -> None:
        super().__init__(handle_auto_reset=True)
        self._game = gymnasium.make("CartPole-v1")
        self._game.reset(seed=seed)

    def observation_spec(self) -> ArraySpec:
        """Where the cart and the pole are, and how fast."""
        return ArraySpec((4,), np.float32, "observation")

    def action_spec(self) -> BoundedArraySpec:
        """To the left or to the right."""
        return BoundedArraySpec((), np.int64, 0, 1, "action")

    def _reset(self) -> ts.TimeStep:
        return ts.restart(self._game.reset()[0])

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        observation, reward, terminated, truncated, _ = self._game.step(int(action))
        if terminated:
            return ts.termination(observation, reward)
        return ts.truncation(observation, reward) if truncated else ts.transition(observation, reward)


def main() -> None:
    """Plays whole episodes, and prints how many steps they had and what they brought."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--policy", default="cartpole")
    parser.add_argument("--episodes", type=int, default=5)
    given = parser.parse_args()

    environment = CartPole(seed=0)
    rewards: list[float] = []
    with RemotePolicy(given.url, given.policy) as remote:
        policy = RemotePyPolicy(remote, mode="greedy")
        observers = [lambda trajectory: rewards.append(0.0 if trajectory.is_boundary() else float(trajectory.reward))]
        driver = py_driver.PyDriver(environment, policy, observers, max_episodes=given.episodes)
        driver.run(environment.reset(), policy.get_initial_state(environment.batch_size or 1))
    steps = len(rewards) - given.episodes
    print(f"{steps} steps, {given.episodes} episodes, mean return {sum(rewards) / given.episodes:.1f}")


if __name__ == "__main__":
    main()
