"""The options of a request: what it may ask for beside its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from app.errors import DoesNotFit, Problem
from app.inputs.fields import Boolean, Choice, Integer, RequestField, Text, fields_of
from app.wire.tensors import show

LONGEST_TIMEOUT_MS = 600_000
# As long as the name of a folder may be.
LONGEST_VERSION = 255
# More would help nobody, and a response should not be larger than its request.
MOST_PROBLEMS = 20
# JSON has integers of any size; these fit into 64 bits with a sign.
_LEAST_INT64, _LARGEST_INT64 = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Options:
    """The options of a request, and the table of them: `fields_of` gives its rows. None where one is not given."""

    mode: Annotated[
        Literal["sample", "greedy"] | None,
        RequestField(
            Choice(("sample", "greedy")),
            '"sample" or "greedy"',
            "how the action comes from the distribution; by default as the policy was saved",
        ),
    ] = None
    seed: Annotated[
        int | None,
        RequestField(
            Integer(0, _LARGEST_INT64),
            "an integer from 0 to 2^63 - 1",
            "fixes the noise: equal requests with equal seeds get equal actions from the same version",
        ),
    ] = None
    log_prob: Annotated[
        bool, RequestField(Boolean(), "true or false", "whether the response has the action's log-probability")
    ] = False
    min_train_step: Annotated[
        int | None,
        RequestField(
            Integer(_LEAST_INT64, _LARGEST_INT64),
            "an integer",
            "waits for weights of at least this train step, until the deadline",
        ),
    ] = None
    timeout_ms: Annotated[
        int | None,
        RequestField(
            Integer(1, LONGEST_TIMEOUT_MS),
            f"an integer from 1 to {LONGEST_TIMEOUT_MS}",
            "the deadline of this request, in milliseconds; by default the server's",
        ),
    ] = None
    version: Annotated[
        str | None,
        RequestField(
            Text(LONGEST_VERSION),
            f'"canary", or the name of a version, of 1 to {LONGEST_VERSION} characters',
            "the version that answers, of those that are loaded; by default the active one",
        ),
    ] = None


OPTION_FIELDS = fields_of(Options)


def read_options(raw: Any) -> Options:
    """Checks the `options` of a request.

    Raises:
      DoesNotFit: an unknown option, or a value of the wrong kind; lists all of them.
    """
    if not isinstance(raw, dict):
        raise DoesNotFit([Problem("options", show(raw), f"an object with {', '.join(OPTION_FIELDS)}")])
    problems: list[Problem] = []
    for name, value in raw.items():
        if len(problems) == MOST_PROBLEMS:
            break
        row = OPTION_FIELDS.get(name)
        if row is None:
            problems.append(Problem(f"options.{name}"[:200], "is no option", f"one of {', '.join(OPTION_FIELDS)}"))
        elif problem := row.problem(f"options.{name}", value):
            problems.append(problem)
    if problems:
        raise DoesNotFit(problems)
    return Options(**raw)
