"""The fields that the requests to sessions have beside those of the policy: one table for each of the two."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from app.inputs.fields import Boolean, Choice, Integer, RequestField, RowFlags, Text, fields_of
from app.inputs.options import Options
from app.inputs.validate import Inputs

LONGEST_NAME = 128

ID = RequestField(
    Text(LONGEST_NAME, "[A-Za-z0-9][A-Za-z0-9._-]*"),
    f"1 to {LONGEST_NAME} letters, digits, '.', '_', '-', the first a letter or digit",
    "names the session in the path of its steps; made by the server where it is left out",
)
RUN_ID = RequestField(
    Text(LONGEST_NAME),
    f"a string of 1 to {LONGEST_NAME} characters",
    "one life of a simulator: the same run may send a request again, another one is refused or takes over",
)
WEIGHTS = RequestField(
    Choice(("latest", "episode")),
    '"latest" or "episode"',
    "whether the session follows every swap, or keeps the version that it started with",
)
RECORD = RequestField(
    Boolean(),
    "true or false",
    "whether its steps become experience; by default those of the share of sessions that the server records",
)
STEP = RequestField(
    Integer(0, 2**63 - 1),
    "an integer, 0 or more",
    "one more than the last; the last one again gets the same answer",
)
FIRST = RequestField(
    RowFlags(),
    "true, false, or a list of them, one a row",
    "which rows start a new episode: one boolean for all, or one a row",
)


class BeginRequest(msgspec.Struct, frozen=True):
    """A request to start a session; None where a field is left to the server."""

    inputs: Inputs
    options: Options
    id: Annotated[str | None, ID] = None
    run_id: Annotated[str | None, RUN_ID] = None
    weights: Annotated[Literal["latest", "episode"] | None, WEIGHTS] = None
    record: Annotated[bool | None, RECORD] = None


class StepRequest(msgspec.Struct, frozen=True):
    """A request for a step. `first`: [rows] booleans, rows that start a new episode."""

    inputs: Inputs
    options: Options
    step: Annotated[int | None, STEP] = None
    run_id: Annotated[str | None, RUN_ID] = None
    first: Annotated[np.ndarray[Any, Any] | None, FIRST] = None


BEGIN_FIELDS = fields_of(BeginRequest)
STEP_FIELDS = fields_of(StepRequest)
