"""What the server's answers become. Arrays are NumPy's, in the policy's nest: maps are dicts, tuples are lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from policy_client.fields import Nest
from policy_client.wire import Array, arrays, decode


@dataclass(frozen=True)
class Action:
    """The policy's action for one observation, or for a batch of them.

    action: the nest of the policy's action, each leaf of its spec's shape, or [rows, …] for a batch.
    policy_state: the nest to send with the next observation; None where the policy has none, and in sessions.
    info: the policy's info; None where it has none.
    log_prob: float, no dimensions or [rows]; None where it was not asked for.
    version: the weights that answered: a checkpoint's name, or "export".
    train_step: their train step; -1 where it is unknown.
    step: in a session, which step of it this answers, from 0; else None.
    """

    action: Nest
    policy_state: Nest
    info: Nest
    log_prob: Array | None
    version: str
    train_step: int
    step: int | None = None


@dataclass(frozen=True)
class Distribution:
    """The distribution of the policy's action.

    distribution: the nest of the action, with a dict at each leaf: "family" (text), "parameters" (arrays by name) and,
      where the family has them, "mode", "mean", "stddev" and "entropy" (nats).
    policy_state, info, version, train_step: as those of `Action`.
    """

    distribution: Nest
    policy_state: Nest
    info: Nest
    version: str
    train_step: int


@dataclass(frozen=True)
class ExperienceBatch:
    """Rows of experience, in the order in which they were recorded.

    columns: by name: arrays [rows, …], or lists of text; none where there are no rows.
    rows: how many there are.
    cursor: the place behind them, to go on from.
    lost_rows: how many rows before them are gone: the server's disk has a limit.
    """

    columns: dict[str, Any]
    rows: int
    cursor: str
    lost_rows: int


def read_action(content: bytes) -> Action:
    """An answer of `action`, or of a session. Raises ValueError, TypeError or KeyError if it is none, as the others."""
    fields = decode(content)
    return Action(
        arrays(fields["action"]),
        _optional(fields, "policy_state"),
        _optional(fields, "info"),
        _optional(fields, "log_prob"),
        fields["version"],
        fields["train_step"],
        fields.get("step"),
    )


def read_distribution(content: bytes) -> Distribution:
    """An answer of `distribution`."""
    fields = decode(content)
    return Distribution(
        arrays(fields["distribution"]),
        _optional(fields, "policy_state"),
        _optional(fields, "info"),
        fields["version"],
        fields["train_step"],
    )


def read_experience(content: bytes) -> ExperienceBatch:
    """An answer of `experience`."""
    fields = decode(content)
    columns = {name: _column(values) for name, values in fields["columns"].items()}
    return ExperienceBatch(columns, int(fields["rows"]), str(fields["cursor"]), int(fields["lost_rows"]))


def read_state(content: bytes) -> Nest:
    """An answer of `get_initial_state`."""
    return arrays(decode(content)["policy_state"])


def read_description(content: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        return _OBJECT.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def read_default_name(content: bytes) -> str:
    """The name of the first policy in the list of them."""
    name: str = read_description(content)["policies"][0]["name"]
    return name


def read_nothing(_: bytes) -> None:
    """An answer that says nothing but that it was done."""


def _column(values: Any) -> Any:
    is_text = isinstance(values, list) and not (values and isinstance(values[0], dict))  # else of tensors
    return values if is_text else arrays(values)


def _optional(fields: dict[str, Any], name: str) -> Any:
    return arrays(fields[name]) if name in fields else None


_OBJECT = msgspec.json.Decoder(dict[str, Any])
