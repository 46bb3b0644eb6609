"""The columns of experience: one row for each step of each environment, as TF-Agents' `Trajectory` has it."""

from __future__ import annotations

from typing import NamedTuple

from saver.artifact import Nest, PolicySpec, leaves

STRING = "string"


class Column(NamedTuple):
    """One column. `dtype`: a NumPy dtype name, or "string"; `shape`: that of one row's value, () for a number."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()


# Beside the policy's own nests; `session`, `run_id` and `row` say which environment, `incarnation` which start of the
# session, `step` which of its steps.
BESIDE = (
    Column("version", STRING),
    Column("train_step", "int64"),
    Column("session", STRING),
    Column("run_id", STRING),
    Column("incarnation", STRING),
    Column("row", "int32"),
    Column("step", "int64"),
    Column("time_ns", "int64"),
    Column("log_prob", "float32"),  # NaN where it was not asked for
    Column("mode", STRING),  # "greedy" or "sample", as it was answered; "" where the policy acted as it was saved
    Column("seed", "int64"),  # of the noise, together with `step` and `row`; -1 where none was given
)


def columns_of(spec: PolicySpec) -> tuple[Column, ...]:
    """Returns the columns of a policy's rows, in the order of the fields of `Trajectory`, then `BESIDE`.

    A leaf of a nest is named by its path: `observation/camera`, `action/0`, `policy_info/loc`.
    """
    inputs = spec.inputs
    assert isinstance(inputs, dict), "policies without time steps have no sessions"
    return (
        Column("step_type", "int32"),
        *_leaves("observation", inputs["observation"]),
        *_leaves("action", spec.action),
        *_leaves("policy_info", spec.info),
        Column("next_step_type", "int32"),
        *_leaves("reward", inputs["reward"]),
        Column("discount", "float32"),
        *BESIDE,
    )


def _leaves(path: str, nest: Nest) -> list[Column]:
    return [Column(name, leaf.dtype, leaf.shape) for name, leaf in leaves(nest, path)]
