"""The options of a request: what it may ask for beside its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from app.errors import DoesNotFit, Problem
from app.wire.tensors import show

LONGEST_TIMEOUT_MS = 600_000
# More would help nobody, and an answer should not be larger than its question.
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Options:
    """What a request asks beside its input; None where it does not."""

    mode: Literal["sample", "greedy"] | None = None
    seed: int | None = None
    log_prob: bool = False
    min_train_step: int | None = None
    timeout_ms: int | None = None


def read_options(raw: Any) -> Options:
    """The `options` of a request.

    Raises:
      DoesNotFit: an unknown option, or a value of the wrong kind; lists all of them.
    """
    if not isinstance(raw, dict):
        raise DoesNotFit([Problem("options", show(raw), f"an object with {', '.join(_OPTIONS)}")])
    problems: list[Problem] = []
    for name, value in raw.items():
        if len(problems) == MOST_PROBLEMS:
            break
        if name not in _OPTIONS:
            problems.append(Problem(f"options.{name}"[:200], "is no option", f"one of {', '.join(_OPTIONS)}"))
        elif not _OPTIONS[name][0](value):
            problems.append(Problem(f"options.{name}", show(value), _OPTIONS[name][1]))
    if problems:
        raise DoesNotFit(problems)
    return Options(**raw)


def _is_integer_in(low: int, high: int) -> Any:
    return lambda value: type(value) is int and low <= value <= high


_OPTIONS: dict[str, tuple[Any, str]] = {
    "mode": (lambda value: isinstance(value, str) and value in ("sample", "greedy"), '"sample" or "greedy"'),
    "seed": (_is_integer_in(0, 2**63 - 1), "an integer from 0 to 2^63 - 1"),
    "log_prob": (lambda value: type(value) is bool, "true or false"),
    "min_train_step": (_is_integer_in(-(2**63), 2**63 - 1), "an integer"),
    "timeout_ms": (_is_integer_in(1, LONGEST_TIMEOUT_MS), f"an integer from 1 to {LONGEST_TIMEOUT_MS}"),
}
