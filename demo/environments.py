"""Actions [B] → what B CartPole-v1 environments did, side by side. No service, no TensorFlow."""

from dataclasses import dataclass, field

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policy_client.fields import FIRST, LAST, MID


@dataclass(frozen=True)
class TimeStep:
    """What B environments are in, as TF-Agents' `TimeStep` has it.

    A fallen pole ends an episode with discount 0; the time limit, which is not part of the observation, with 1.
    """

    step_type: NDArray[np.int32]  # [B]
    reward: NDArray[np.float32]  # [B]
    discount: NDArray[np.float32]  # [B]
    observation: NDArray[np.float32]  # [B, 4]
    returns: dict[int, float] = field(default_factory=dict)  # of the episodes that ended here, by environment


class Environments:
    """B environments. The step after the last one of an episode starts another one, whatever its action is."""

    def __init__(self, count: int, seed: int) -> None:
        self._environments = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(count)]
        self._returns = [0.0] * count
        first = [one.reset(seed=seed + place)[0] for place, one in enumerate(self._environments)]
        self.time_step = TimeStep(
            np.full(count, FIRST, np.int32), np.zeros(count, np.float32), np.ones(count, np.float32), _stacked(first)
        )

    def step(self, action: NDArray[np.int64]) -> TimeStep:
        """Does `action`, [B]; returns what the next action is for, which is `time_step` afterwards."""
        count = len(self._environments)
        step_type, returns = np.full(count, MID, np.int32), {}
        reward, discount = np.zeros(count, np.float32), np.ones(count, np.float32)
        observations = []
        for place, (one, what) in enumerate(zip(self._environments, action, strict=True)):
            if self.time_step.step_type[place] == LAST:
                observations.append(one.reset()[0])
                step_type[place] = FIRST
                continue
            observation, gained, terminated, truncated, _ = one.step(int(what))
            observations.append(observation)
            reward[place] = gained
            self._returns[place] += float(gained)
            if terminated or truncated:
                step_type[place] = LAST
                discount[place] = 0.0 if terminated else 1.0
                returns[place], self._returns[place] = self._returns[place], 0.0
        self.time_step = TimeStep(step_type, reward, discount, _stacked(observations), returns)
        return self.time_step


def _stacked(observations: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack(observations).astype(np.float32)
