"""What may be sent beside the observation, by the call that it is for. Whatever is left out, or None, is not sent.

A nest is an array, or a dict, list, tuple or named tuple of nests; NumPy arrays, numbers and nested lists of numbers
can be its leaves. "One, or one a row": a single number with one observation, an array of shape [rows] with a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from numpy.typing import ArrayLike

from policy_client.wire import plain

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

Nest: TypeAlias = Any
# Step types, as TF-Agents numbers them.
FIRST, MID, LAST = 0, 1, 2
Mode: TypeAlias = Literal["greedy", "sample"]


class TimeStep(TypedDict, total=False):
    """The rest of a time step.

    reward: float, one or one a row, for what was done before this observation; 0 where it is left out.
    discount: float, one or one a row: 0 where the episode has terminated, else 1, which is the default.
    step_type: 0 (FIRST), 1 (MID) or 2 (LAST), one or one a row. Left out, the server knows.
    """

    reward: ArrayLike | None
    discount: ArrayLike | None
    step_type: ArrayLike | None


class Patience(TypedDict, total=False):
    """How long to wait, and what for.

    min_train_step: never answer from weights older than this train step; `Conflict` where none come in time.
    timeout_ms: 1 to 600,000, the server's deadline for the answer; 10,000 where it is left out.
    """

    min_train_step: int | None
    timeout_ms: int | None


class Drawing(TypedDict, total=False):
    """How the action is drawn.

    mode: "greedy" for the greedy action, "sample" for one from the distribution; left out: what the policy does.
    seed: 0 to 2^63 - 1. The same request, seed and weights get the same action.
    log_prob: True for the action's log-probability, one or one a row.
    """

    mode: Mode | None
    seed: int | None
    log_prob: bool | None


class Asked(TypedDict, total=False):
    """Which version is asked.

    version: "canary", or the name of a version that is loaded (else `Conflict`); the active one where it is left out.
    """

    version: str | None


class ReadFields(TypedDict, total=False):
    """Which rows of experience are read, and how.

    max_rows: most rows of a batch, 1 to 65536; 4096 where it is left out.
    wait_ms: how long one request waits for rows, 0 to 50000 milliseconds; 10,000 where it is left out.
    min_train_step: rows of older weights are left out.
    complete_episodes: whole episodes only, each in one batch, in the order in which they end.
    """

    max_rows: int | None
    wait_ms: int
    min_train_step: int | None
    complete_episodes: bool


class DistributionFields(TimeStep, Patience, Asked, total=False):
    """policy_state: the nest of the last answer; left out, an episode begins."""

    policy_state: Nest


class ActionFields(DistributionFields, Drawing, total=False):
    """All that `action` takes."""


class BeginFields(TimeStep, Patience, Drawing, total=False):
    """What begins a session; `mode`, `seed` and `log_prob` hold for its later steps too.

    id: 1 to 128 letters, digits, ".", "_", "-"; a random one where it is left out. One that a crashed simulator left
      behind can be used again.
    run_id: 1 to 128 characters, which run of the simulator this is; a random one where it is left out.
    weights: "latest" for those that serve at each step (the default), "episode" for those of the first step throughout.
    record: whether its steps become experience; as the server is set where it is left out.
    """

    id: str | None
    run_id: str | None
    weights: Literal["latest", "episode"] | None
    record: bool | None


class StepFields(TimeStep, Patience, Drawing, total=False):
    """What a step of a session takes.

    first: True, or one boolean a row: these rows begin a new episode with this observation.
    """

    first: ArrayLike | None


OPTIONS = frozenset([*Patience.__annotations__, *Drawing.__annotations__, *Asked.__annotations__])


def body_of(observation: Nest, fields: Any, kind: Any) -> dict[str, Any]:
    """The request's object: `observation`, `fields` that are not None, and those of them that are options in `options`.

    Args:
      observation: a nest.
      fields: the keyword arguments of a call, a `kind`.
      kind: one of the classes above.

    Raises:
      TypeError: a field that `kind` does not have.
    """
    body: dict[str, Any] = {"observation": plain(observation)}
    options = {}
    for name, value in fields.items():
        if name not in kind.__annotations__:
            known = ", ".join(kind.__annotations__)
            raise TypeError(f"{name!r} is no field of this call; there are: {known}")
        if value is None:
            continue
        if name in OPTIONS:
            options[name] = value
        else:
            body[name] = plain(value)
    if options:
        body["options"] = options
    return body
