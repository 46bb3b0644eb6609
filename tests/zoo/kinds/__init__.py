"""Every kind of policy of the zoo by name; makes them with fixed seeds and trains them a little."""

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy

from tests.zoo.kind import Kind, named
from tests.zoo.kinds import (
    actions,
    actors,
    bandits,
    distributions,
    exports,
    neural_bandits,
    observations,
    q_learning,
    recurrent,
    wrappers,
)

KINDS: dict[str, Kind] = named(
    q_learning.KINDS
    + actors.KINDS
    + recurrent.KINDS
    + observations.KINDS
    + actions.KINDS
    + bandits.KINDS
    + neural_bandits.KINDS
    + wrappers.KINDS
    + distributions.KINDS
    + exports.KINDS
)


def _some_of_each_group(share: int) -> list[str]:
    """The first one of each group, and every one in `share` of a large one."""
    groups = {kind.group: [k.name for k in KINDS.values() if k.group == kind.group] for kind in KINDS.values()}
    return [name for names in groups.values() for name in names[::share]]


# What a run with small counts looks at.
FEW = _some_of_each_group(16)


def make(kind: Kind, seed: int) -> tf_policy.TFPolicy:
    """A new policy, whose weights depend on the seed alone."""
    tf.keras.utils.set_random_seed(seed)
    policy = kind.make()
    tf.random.set_seed(None)  # or its export would replay the same samples after every start
    return policy


def perturb(policy: tf_policy.TFPolicy, seed: int) -> None:
    """Changes every float variable of the policy a little, in place, as training would; all stay valid."""
    generator = np.random.default_rng(seed)
    for variable in policy.variables():
        if variable.dtype.is_floating and variable.shape.num_elements():
            value = variable.numpy()
            variable.assign(_moved(variable.name, value, generator).astype(value.dtype))


def _moved(name: str, value: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = generator.normal(size=value.shape)
    if "num_samples" in name or "count" in name:
        return value + 3
    if value.ndim == 2 and value.shape[0] == value.shape[1] > 1:
        if np.allclose(value @ value.T, np.eye(len(value)), atol=1e-4):  # eigenvectors
            return np.linalg.qr(value + 0.5 * noise)[0]
        if np.allclose(value, value.T):  # a covariance
            return value + np.abs(value).mean() * (noise @ noise.T) / len(value)
    if np.all(value > 0):  # a variance, or counts of a Beta distribution
        return value * np.exp(0.5 * noise)
    return value + (0.2 + 0.7 * value.std()) * noise
