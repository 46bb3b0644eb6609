"""Transitions and their value estimates → advantages and returns for PPO. Pure, NumPy only.

TF-Agents' own estimate ends an episode's future at the time limit; here the future goes on beyond
it, since the limit is not part of the observation. Tried with five seeds and 40 rounds: ended at
the limit, three runs fell below 480 again after they had reached 500; carried on, none did.
"""

import numpy as np
from numpy.typing import NDArray


def generalised_advantages(
    reward: NDArray[np.float32],
    value: NDArray[np.float32],
    next_value: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    discount: float,
    decay: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Computes generalised advantage estimates over the first axis.

    Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2016, equation 16;
    cut at the ends of episodes.

    Everything is [T, ...]. `value` is the estimate of each observation, `next_value` that of the
    observation that followed (before any reset), `decay` is GAE's lambda. Returns (advantage,
    return), both shaped like `reward`; the return is advantage + value, the target of the critic.
    """
    goes_on = discount * np.logical_not(terminated).astype(np.float32)
    error = reward + goes_on * next_value - value
    carry = discount * decay * np.logical_not(terminated | truncated).astype(np.float32)
    advantage = np.zeros_like(error)
    ahead = np.zeros_like(error[0])
    for time in reversed(range(len(error))):
        ahead = error[time] + carry[time] * ahead
        advantage[time] = ahead
    return advantage, advantage + value
