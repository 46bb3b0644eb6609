"""A Gymnasium vector environment, stepped with one session: what its outcomes are as TF-Agents' time steps."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from policy_client.answers import Action
from policy_client.fields import FIRST, LAST, MID, BeginFields, Nest, StepFields
from policy_client.policy import RemotePolicy, Session

if TYPE_CHECKING:
    from typing_extensions import Self, TypeAlias, Unpack

Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Transition:
    """One step of n environments.

    observation: what the policy saw, leaves [n, …].
    answer: its `Action`, with the version of the weights that gave it.
    reward: [n]. terminated, truncated: [n] booleans. info: the environments' own.
    next_observation: what `step` of the environments returned, leaves [n, …]. With same-step resets, a row whose
      episode has ended shows the first observation of the next one; the last one is in `info["final_obs"]`.
    ignored: [n] booleans: with next-step resets, rows whose episode had ended before. They were reset instead of
      stepped, so that their action and reward mean nothing.
    """

    observation: Nest
    answer: Action
    reward: Floats
    terminated: Flags
    truncated: Flags
    next_observation: Nest
    ignored: Flags
    info: dict[str, Any]

    @property
    def ended(self) -> Flags:
        """[n] booleans: episodes that ended with this step."""
        return self.terminated | self.truncated


class VectorPolicy:
    """Plays vector environments with one session, a row for each environment. As a context it ends the session.

    A policy sees what it would see in TF-Agents: FIRST with reward 0 and discount 1 where an episode begins, and with
    next-step resets also LAST, with discount 0 where the environment has terminated and 1 where it was truncated.

    Args:
      policy: of the server.
      envs: with next-step or same-step autoreset; reset here, and left open in the end.
      reset_seed: of the environments.
      **fields: what else begins the session: `id`, `run_id`, `weights`, `mode`, `seed`, `log_prob`; see
      policy_client/fields.py.

    Raises:
      ValueError: the environments are not reset by themselves.
      PolicyError: see `RemotePolicy.session`.

    Attributes:
      observation: the newest one, leaves [n, …].
      session: the session.
    """

    def __init__(
        self,
        policy: RemotePolicy,
        envs: VectorEnv[Any, Any, Any],
        *,
        reset_seed: int | None = None,
        **fields: Unpack[BeginFields],
    ) -> None:
        self._envs = envs
        self._time_steps = TimeSteps(envs.num_envs, autoreset_mode(envs))
        self._unasked: StepFields | None = None
        self.observation: Nest = envs.reset(seed=reset_seed)[0]
        self.session: Session = policy.session(self.observation, **fields)

    def step(self) -> Transition:
        """Asks for the action of the newest observation, one request, and does it.

        Raises:
          PolicyError: see `Session.step`. The environments have not moved: the same step may be taken again.
        """
        if self._unasked is not None:
            self.session.step(self.observation, **self._unasked)
            self._unasked = None
        observation, answer, ignored = self.observation, self.session.answer, self._time_steps.resetting
        outcome = self._envs.step(_tuples(answer.action))
        self.observation, reward, terminated, truncated, info = outcome
        self._unasked = self._time_steps.fields(reward, terminated, truncated)
        return Transition(observation, answer, reward, terminated, truncated, self.observation, ignored, info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.__exit__(kind, error, trace)


class TimeSteps:
    """What vector environments return → the fields that a session is sent.

    Attributes:
      resetting: [n] booleans: environments that the next step resets, whatever the action.
    """

    def __init__(self, rows: int, mode: AutoresetMode) -> None:
        self.resetting: Flags = np.zeros(rows, bool)
        self._mode = mode

    def fields(self, reward: Floats, terminated: Flags, truncated: Flags) -> StepFields:
        """Of the observation that came with these, each [n]. What the server takes for granted is left out."""
        ended = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP:
            first, last = ended, np.zeros_like(ended)
        else:
            first, last = self.resetting, ended
            self.resetting = ended
        fields: StepFields = {"reward": np.where(first, 0, reward).astype(np.float32)}
        over = terminated & ~first
        if over.any():
            fields["discount"] = np.where(over, 0, 1).astype(np.float32)
        if first.any() or last.any():
            fields["step_type"] = np.where(first, FIRST, np.where(last, LAST, MID)).astype(np.int32)
        return fields


def autoreset_mode(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """When the environments begin their next episodes; next-step where they do not say, as Gymnasium has it.

    Raises:
      ValueError: they wait to be reset.
    """
    mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    if mode is AutoresetMode.DISABLED:
        raise ValueError("these environments have autoreset_mode DISABLED; expected NEXT_STEP or SAME_STEP")
    return mode


def _tuples(nest: Nest) -> Nest:
    """An action as Gymnasium's Tuple spaces have it."""
    if isinstance(nest, dict):
        return {key: _tuples(child) for key, child in nest.items()}
    return tuple(_tuples(child) for child in nest) if isinstance(nest, list) else nest
