"""A policy's experience as a `tf.data.Dataset` of TF-Agents' `Trajectory`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tf_agents.trajectories import trajectory

from policy_client.array_specs import array_spec_of
from policy_client.experience import Experience
from policy_client.fields import Nest
from policy_client.windows import Windows, episodes_in


def experience_dataset(
    experience: Experience,
    *,
    num_steps: int | None = 2,
    shift: int = 1,
    batch_size: int | None = None,
    stop_when_idle: bool = False,
) -> tf.data.Dataset:
    """Makes a dataset of what comes out of a reader, in the order in which it was recorded; it can be iterated once.

    Its elements are what `agent.train` takes: `Trajectory` with leaves [batch_size, num_steps, …]; without a
    `batch_size` [num_steps, …], as a replay buffer's `as_dataset` has them. Rows between episodes (`is_boundary`) are
    among them, as they are among what a driver collects: agents give them no weight.

    Args:
      experience: the reader; with `complete_episodes` where `num_steps` is None.
      num_steps: consecutive steps of one environment: 2 for DQN and SAC, n + 1 for n-step returns, more for PPO. None
        for whole episodes, which differ in length (batch_size 1, or None).
      shift: steps between the beginnings of two elements: 1, so that every step begins one; `num_steps - 1` for PPO,
        which is to see each transition once, and takes the last step of an element only for what follows.
      batch_size: how many make an element.
      stop_when_idle: ends the dataset where no row came within the reader's `wait_ms`, in the place of waiting on.

    Raises:
      ValueError: `num_steps` or `shift` is below 1; or whole episodes in batches of more than one, or of a reader that
        does not read whole ones.
      PolicyError: the server does not describe the policy.
    """
    if num_steps is None and (batch_size or 1) > 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or None: episodes differ in length")
    if num_steps is None and not experience.complete_episodes:
        raise ValueError("whole episodes need a reader with complete_episodes=True")
    specs = row_specs(experience.policy.describe()["specs"])
    names = [name for name, _ in leaves_of(specs)]
    windows = Windows(num_steps, names, shift) if num_steps is not None else None
    pieces = _pieces(experience, windows, names, stop_when_idle)
    lead = (None, num_steps)
    signature = {name: tf.TensorSpec((*lead, *spec.shape), tf.as_dtype(spec.dtype)) for name, spec in leaves_of(specs)}
    dataset = tf.data.Dataset.from_generator(lambda: pieces, output_signature=signature).unbatch()
    if batch_size is not None:
        dataset = dataset.batch(batch_size, drop_remainder=num_steps is not None)
    return dataset.map(lambda columns: packed(specs, columns, ""))


def _pieces(
    experience: Experience, windows: Windows | None, names: list[str], stop_when_idle: bool
) -> Iterator[dict[str, Any]]:
    while not experience.is_closed:
        batch = experience.read()
        if not batch.rows:
            if stop_when_idle:
                return
            continue
        if windows is None:
            for episode in episodes_in(batch.columns, names):
                yield {name: array[None] for name, array in episode.items()}
        elif (found := windows.add(batch.columns)) is not None:
            yield found


def row_specs(described: Any) -> trajectory.Trajectory:
    """The array specs of a row, by the names that its columns have."""
    inputs = described["inputs"]["dict"]
    return trajectory.Trajectory(
        step_type=array_spec_of(inputs["step_type"]),
        observation=array_spec_of(inputs["observation"]),
        action=array_spec_of(described["action"]),
        policy_info=array_spec_of(described["info"]),
        next_step_type=array_spec_of(inputs["step_type"]),
        reward=array_spec_of(inputs["reward"]),
        discount=array_spec_of(inputs["discount"]),
    )


def leaves_of(nest: Nest, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each leaf with its path, which is the name of its column."""
    if isinstance(nest, dict):
        children: Any = nest.items()
    elif isinstance(nest, tuple) and hasattr(nest, "_fields"):
        children = zip(nest._fields, nest)
    elif isinstance(nest, (list, tuple)):
        children = enumerate(nest)
    else:
        yield path, nest
        return
    for key, child in children:
        yield from leaves_of(child, f"{path}/{key}" if path else str(key))


def packed(nest: Nest, columns: dict[str, Any], path: str) -> Nest:
    """Values by the paths of a nest's leaves, in that nest."""

    def below(key: object) -> str:
        return f"{path}/{key}" if path else str(key)

    if isinstance(nest, dict):
        return {key: packed(child, columns, below(key)) for key, child in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(packed(getattr(nest, name), columns, below(name)) for name in nest._fields))
    if isinstance(nest, (list, tuple)):
        return tuple(packed(child, columns, below(number)) for number, child in enumerate(nest))
    return columns[path]
