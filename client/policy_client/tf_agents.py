"""For TF-Agents: a policy of the server as a PyPolicy, and its experience as a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tf_agents.policies import py_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from policy_client.array_specs import array_spec_of
from policy_client.dataset import experience_dataset
from policy_client.fields import Mode, Nest
from policy_client.policy import RemotePolicy

__all__ = ["RemotePyPolicy", "array_spec_of", "experience_dataset"]


class RemotePyPolicy(py_policy.PyPolicy):
    """Asks the server for each action. The policy state is carried by whoever drives it, as with any PyPolicy.

    Time steps may be single or batched. A single time step with a batch of one policy state, which is what PyDriver
    makes of `get_initial_state(env.batch_size or 1)`, gets a single action and again a batch of one state.

    Specs that are not given are made from the server's description: nests of dicts and tuples, arrays of the spec's
    dtype, bounded where the spec has both bounds. Give those whose nests have named tuples or lists that matter to you,
    or dimensions of unknown size. Answers come in the nests of the specs.

    Args:
      remote: the policy of the server.
      time_step_spec: a `TimeStep` of array specs.
      action_spec, policy_state_spec, info_spec: nests of array specs.
      mode: "greedy" for greedy actions, "sample" for drawn ones; None for what the policy does.

    Raises:
      ValueError: the policy takes no time steps, and no `time_step_spec` was given.
      PolicyError: the server has no description.
    """

    def __init__(
        self,
        remote: RemotePolicy,
        *,
        time_step_spec: ts.TimeStep | None = None,
        action_spec: Nest = None,
        policy_state_spec: Nest = None,
        info_spec: Nest = None,
        mode: Mode | None = None,
    ) -> None:
        given = (time_step_spec, action_spec, policy_state_spec, info_spec)
        if any(spec is None for spec in given):
            specs = remote.describe()["specs"]
            described = (specs["action"], specs["state"], specs["info"])
            made = (
                _time_step_spec(specs["inputs"]) if time_step_spec is None else None,
                *(array_spec_of(nest) for nest in described),
            )
            given = tuple(m if g is None else g for g, m in zip(given, made))
        super().__init__(*given)
        self._remote = remote
        self._mode = mode

    def _get_initial_state(self, batch_size: int | None) -> Nest:
        if not _has_leaves(self._policy_state_spec):
            return self._policy_state_spec
        return _like(self._policy_state_spec, self._remote.get_initial_state(batch_size))

    def _action(self, time_step: ts.TimeStep, policy_state: Nest, seed: int | None = None) -> policy_step.PolicyStep:
        has_state = _has_leaves(self._policy_state_spec) and _has_leaves(policy_state)
        alone = np.ndim(time_step.step_type) == 0
        as_batch = alone and has_state and _is_batched(policy_state, self._policy_state_spec)
        if as_batch:  # the server takes all fields single, or all as batches
            time_step = _mapped(lambda leaf: np.asarray(leaf)[None], time_step)
        answer = self._remote.action(
            time_step.observation,
            step_type=time_step.step_type,
            reward=time_step.reward,
            discount=time_step.discount,
            policy_state=policy_state if has_state else None,
            mode=self._mode,
            seed=None if seed is None else int(seed),
        )
        action, info = answer.action, answer.info
        if as_batch:
            action, info = _mapped(lambda leaf: leaf[0], (action, info))
        return policy_step.PolicyStep(
            _like(self._action_spec, action),
            _like(self._policy_state_spec, answer.policy_state) if answer.policy_state is not None else policy_state,
            _like(self._info_spec, info) if info is not None else self._info_spec,
        )


def _time_step_spec(inputs: Mapping[str, Any]) -> ts.TimeStep:
    fields = inputs.get("dict", {})
    missing = [name for name in ts.TimeStep._fields if name not in fields]
    if missing:
        raise ValueError(f"the policy takes no time steps: it has no {', '.join(missing)}; give a time_step_spec")
    return ts.TimeStep(**{name: array_spec_of(fields[name]) for name in ts.TimeStep._fields})


def _has_leaves(nest: Nest) -> bool:
    return not isinstance(nest, (dict, list, tuple)) or bool(nest)


def _is_batched(nest: Nest, spec: Nest) -> bool:
    """Whether the first leaf has one dimension more than its spec."""
    while isinstance(spec, (dict, list, tuple)):
        key = next(iter(spec)) if isinstance(spec, dict) else 0
        nest, spec = nest[key], spec[key]
    return np.ndim(nest) > len(spec.shape)


def _mapped(change: Any, nest: Nest) -> Nest:
    """What `change` makes of each leaf; named tuples stay what they are."""
    if isinstance(nest, dict):
        return {key: _mapped(change, child) for key, child in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(_mapped(change, child) for child in nest))
    if isinstance(nest, (list, tuple)):
        return [_mapped(change, child) for child in nest]
    return change(nest) if nest is not None else None


def _like(spec: Nest, answer: Nest) -> Nest:
    """The answer's arrays in the nest of the spec, of its dtypes."""
    if isinstance(spec, Mapping):
        return {key: _like(child, answer[key]) for key, child in spec.items()}
    if isinstance(spec, tuple) and hasattr(spec, "_fields"):
        return type(spec)(*(_like(getattr(spec, name), answer[name]) for name in spec._fields))
    if isinstance(spec, (list, tuple)):
        if len(spec) != len(answer):
            raise ValueError(f"the answer has {len(answer)} entries where the spec has {len(spec)}")
        parts = [_like(child, part) for child, part in zip(spec, answer)]
        return parts if isinstance(spec, list) else tuple(parts)
    return np.asarray(answer, spec.dtype)
