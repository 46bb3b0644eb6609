"""Actions [B] → what B CartPole-v1 environments did, side by side. No service, no TensorFlow."""

from dataclasses import dataclass

import gymnasium
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """One time step of B environments."""

    reward: NDArray[np.float32]  # [B]
    next_observation: NDArray[np.float32]  # [B, 4], before any reset
    terminated: NDArray[np.bool_]  # [B]
    truncated: NDArray[np.bool_]  # [B], the time limit, when the pole had not fallen as well
    returns: dict[int, float]  # of the episodes that ended here, by environment


class Environments:
    """B environments, each started again as soon as its episode ends."""

    def __init__(self, count: int, seed: int) -> None:
        self._environments = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(count)]
        self._returns = [0.0] * count
        self.observation: NDArray[np.float32] = np.stack(
            [one.reset(seed=seed + place)[0] for place, one in enumerate(self._environments)]
        )

    def step(self, action: NDArray[np.int64]) -> Outcome:
        """Does `action`, [B]; afterwards `observation` is what the next action is for."""
        followed = [one.step(int(what)) for one, what in zip(self._environments, action, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*followed, strict=True)
        outcome = Outcome(
            reward=np.asarray(rewards, np.float32),
            next_observation=np.stack(observations).astype(np.float32),
            terminated=np.asarray(terminated, np.bool_),
            truncated=np.asarray(truncated, np.bool_) & ~np.asarray(terminated, np.bool_),
            returns={},
        )
        self.observation = outcome.next_observation.copy()
        for place, reward in enumerate(rewards):
            self._returns[place] += float(reward)
            if terminated[place] or truncated[place]:
                outcome.returns[place] = self._returns[place]
                self._returns[place] = 0.0
                self.observation[place] = self._environments[place].reset()[0]
        return outcome
