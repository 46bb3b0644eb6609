"""Values of each option of a request and each field of a session's: at every bound, just beyond, and of other kinds."""

from typing import Any

from app.inputs.options import Options
from app.sessions.fields import BeginRequest, StepRequest

RUN_IDS: tuple[list[Any], list[Any]] = (["x", "é" * 128, "a b/c"], ["", "x" * 129, 1, None, ["x"]])
# By table and field: what is taken, and what is refused.
FIELDS: dict[tuple[type, str], tuple[list[Any], list[Any]]] = {
    (Options, "mode"): (["sample", "greedy"], ["", "Greedy", "random", None, 1, ["greedy"]]),
    (Options, "seed"): ([0, 1, 2**63 - 1], [-1, 2**63, "1", True, None, 0.5]),
    (Options, "log_prob"): ([True, False], [0, 1, "true", None]),
    (Options, "min_train_step"): ([-(2**63), -1, 0, 2**63 - 1], [-(2**63) - 1, 2**63, "7", False, 1.5]),
    (Options, "timeout_ms"): ([1, 600_000], [0, -1, 600_001, "1", True, 5.5]),
    (Options, "version"): (["canary", "0000000700", "é x/y", "x" * 255], ["", "x" * 256, 7, None, True, ["canary"]]),
    (BeginRequest, "id"): (["a", "9.x_-", "x" * 128], ["", "x" * 129, ".a", "_a", "-a", "a b", "a/b", "é", 7]),
    (BeginRequest, "run_id"): RUN_IDS,
    (BeginRequest, "record"): ([True, False], [0, "true", [True]]),
    (BeginRequest, "weights"): (["latest", "episode"], ["", "newest", True, 1]),
    (StepRequest, "step"): ([0, 1, 2**63 - 1], [-1, 2**63, "1", True, 0.5]),
    (StepRequest, "run_id"): RUN_IDS,
    (StepRequest, "first"): ([True, False, [True], [True, False, True]], [0, "true", [0], [True, None], {}]),
}
