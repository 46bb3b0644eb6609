"""Documented requests to TensorFlow Serving's REST API, each with the answer that its documentation shows.

The models are ours: `number` answers 1,000 times its train step plus the observation's first entry, twice; `counting`
has state; both serve train step 800. What the documentation shows of messages stands at the start of each.
"""

from dataclasses import dataclass
from typing import Any

ROW = [3.0, 0.0, 0.0, 0.0]
OTHER = [5.0, 0.0, 0.0, 0.0]
FIRST = {"0/step_type": 0, "0/reward": 0.0, "0/discount": 1.0}
AVAILABLE = {"version": "800", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
THREE, FIVE = [800_003, 800_003], [800_005, 800_005]
TIME_STEP = {"0/step_type": [1, 1], "0/reward": [0.0, 0.5], "0/discount": [1.0, 1.0]}
STATE = {"1/last": [[0.0]], "1/steps": [6]}


@dataclass(frozen=True)
class Documented:
    """One request and its answer: of an error, the start of its message."""

    title: str
    path: str
    body: Any = None
    status: int = 200
    answer: Any = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def predict(
    title: str, body: Any, answer: Any, status: int = 200, path: str = "/v1/models/number:predict"
) -> Documented:
    return Documented(title, path, body, status, answer)


TABLE = (
    # Model status
    Documented("status", "/v1/models/number", answer={"model_version_status": [AVAILABLE]}),
    Documented("status of a version", "/v1/models/number/versions/800", answer={"model_version_status": [AVAILABLE]}),
    Documented("status of a label", "/v1/models/number/labels/latest", answer={"model_version_status": [AVAILABLE]}),
    Documented(
        "status of no version", "/v1/models/number/versions/7", None, 404, "Could not find version 7 of model number"
    ),
    Documented("status of no model", "/v1/models/half", None, 404, "Could not find any versions of model half"),
    Documented(
        "status of a label that is none",
        "/v1/models/number/labels/x",
        None,
        400,
        "Unrecognized servable version label: x",
    ),
    Documented("status of all", "/v1/models", None, 400, "Missing model name in request."),
    # Predict in rows
    predict("rows of the only input", {"instances": [ROW, OTHER]}, {"predictions": [THREE, FIVE]}),
    predict("one row", {"instances": [ROW]}, {"predictions": [THREE]}),
    predict(
        "rows by name",
        {"instances": [{"0/observation": ROW}, {"0/observation": OTHER}]},
        {"predictions": [THREE, FIVE]},
    ),
    predict(
        "rows with every input",
        {"signature_name": "action", "instances": [{**FIRST, "0/observation": ROW}]},
        {"predictions": [THREE]},
    ),
    predict(
        "the default signature by its name",
        {"signature_name": "serving_default", "instances": [ROW]},
        {"predictions": [THREE]},
    ),
    predict("a version", {"instances": [ROW]}, {"predictions": [THREE]}, path="/v1/models/number/versions/800:predict"),
    predict("a label", {"instances": [ROW]}, {"predictions": [THREE]}, path="/v1/models/number/labels/latest:predict"),
    predict(
        "in capitals", {"instances": [ROW]}, {"predictions": [THREE]}, path="/V1/Models/number/Versions/800:Predict"
    ),
    predict(
        "rows of several outputs",
        {"instances": [{"0/observation": ROW}]},
        {"predictions": [{"action": [800_001, 800_001], "state/last": [30.0], "state/steps": 1}]},
        path="/v1/models/counting:predict",
    ),
    # Predict in columns
    predict("a column of the only input", {"inputs": [ROW, OTHER]}, {"outputs": [THREE, FIVE]}),
    predict("columns by name", {"inputs": {"0/observation": [ROW, OTHER], **TIME_STEP}}, {"outputs": [THREE, FIVE]}),
    predict(
        "columns with state, of several outputs",
        {"signature_name": "action", "inputs": {"0/observation": [OTHER], **STATE}},
        {"outputs": {"action": [[800_007, 800_007]], "state/last": [[50.0]], "state/steps": [7]}},
        path="/v1/models/counting:predict",
    ),
    # The other signatures of a PolicySaver
    predict(
        "the initial state",
        {"signature_name": "get_initial_state", "inputs": {"batch_size": 2}},
        {"outputs": {"last": [[0.0], [0.0]], "steps": [0, 0]}},
        path="/v1/models/counting:predict",
    ),
    predict("the initial state of none", {"signature_name": "get_initial_state", "inputs": 2}, {"outputs": {}}),
    predict("the train step", {"signature_name": "get_train_step", "inputs": {}}, {"outputs": 800}),
    predict("no metadata", {"signature_name": "get_metadata"}, {"outputs": {}}),
    # Errors
    predict(
        "no model",
        {"instances": [1.0, 5.0]},
        "Servable not found for request: Latest(half)",
        404,
        "/v1/models/half:predict",
    ),
    predict(
        "no version",
        {"instances": [ROW]},
        "Servable not found for request: Specific(number, 7)",
        404,
        "/v1/models/number/versions/7:predict",
    ),
    predict(
        "too large a version",
        {"instances": [ROW]},
        "Failed to convert version: 9223372036854775808 to numeric",
        400,
        f"/v1/models/number/versions/{2**63}:predict",
    ),
    predict(
        "a label that is none",
        {"instances": [ROW]},
        "Unrecognized servable version label: x",
        400,
        "/v1/models/number/labels/x:predict",
    ),
    predict(
        "no signature",
        {"signature_name": "x", "instances": [ROW]},
        'Serving signature name: "x" not found in signature def',
        400,
    ),
    predict("neither rows nor columns", {"signature_name": "action"}, "Missing 'inputs' or 'instances' key", 400),
    predict(
        "rows and columns", {"inputs": [ROW], "instances": [ROW]}, "expecting only one of 'inputs' or 'instances'", 400
    ),
    predict("no JSON", b'{"instances": [', "the body is not JSON", 400),
    predict("no object", b"[1]", "the body is a JSON array", 400),
    predict("no body", b"", "Missing 'inputs' or 'instances' key", 400),
    predict("not the shape", {"instances": [[1.0, 2.0]]}, "observation: shape [1, 2]", 400),
    predict("not the type", {"instances": [["a", 0, 0, 0]]}, "observation[0][0]: the string 'a'", 400),
    predict(
        "classify",
        {"examples": [{"x": 1.0}]},
        "Expected classification signature method_name",
        400,
        "/v1/models/number:classify",
    ),
    predict(
        "regress",
        {"examples": [{"x": 1.0}]},
        "Expected regression signature method_name",
        400,
        "/v1/models/number:regress",
    ),
    predict(
        "regress of no model",
        {"examples": [{"x": 1.0}]},
        "Servable not found for request: Latest(half)",
        404,
        "/v1/models/half:regress",
    ),
    Documented(
        "predict by GET", "/v1/models/number:predict", None, 400, "Malformed request: GET /v1/models/number:predict"
    ),
    predict("status by POST", {}, "Malformed request: POST /v1/models/number", 400, "/v1/models/number"),
    predict("no call", {}, "Malformed request: POST /v1/models/number:explain", 400, "/v1/models/number:explain"),
    predict("a version that is no number", {}, "Malformed request", 400, "/v1/models/number/versions/a:predict"),
    Documented(
        "metadata of no model", "/v1/models/half/metadata", None, 404, "Servable not found for request: Latest(half)"
    ),
    Documented(
        "metadata of no version",
        "/v1/models/number/versions/7/metadata",
        None,
        404,
        "Servable not found for request: Specific(number, 7)",
    ),
)
