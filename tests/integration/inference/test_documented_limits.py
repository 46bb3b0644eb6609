"""The limits in the OpenAPI document are those that the server enforces: values at each of them, and just beyond."""

import json
import re
from typing import Any

import httpx
import jsonschema
import pytest

from app.inputs.options import Options
from app.sessions.fields import BeginRequest, StepRequest
from app.wire import msgpack_body
from tests.support.field_values import FIELDS
from tests.support.server import RunningServer

OBSERVATION = [0.1, -0.2, 0.3, -0.4]
ROOT = "/v1/policies/cartpole"
OPTIONS = [name for table, name in FIELDS if table is Options]
BEGIN = [name for table, name in FIELDS if table is BeginRequest]
STEP = [name for table, name in FIELDS if table is StepRequest]
PACKED = {"content-type": "application/msgpack", "accept": "application/json"}


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict:
    return server.http.get("/openapi.json").json()


def body_schema(document: dict, path: str) -> dict:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    return {**content["application/json"]["schema"], "components": document["components"]}


def agree(server: RunningServer, schema: dict, path: str, body: dict, *, ok: bool) -> httpx.Response:
    """Server and document both take the body, or both refuse it, as JSON and as msgpack; the last response."""
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is ok, body
    sent: list[dict[str, Any]] = [{"content": json.dumps(body)}]
    integers = [value for part in (body, body.get("options", {})) for value in part.values() if type(value) is int]
    if all(-(2**63) <= value < 2**63 for value in integers):  # msgpack has no others that these fields could have
        sent.append({"content": msgpack_body.encode(body), "headers": PACKED})
    for request in sent:
        response = server.http.post(path, **request)
        assert (response.status_code != 422) is ok, (body, response.text)
    return response


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("path", ["/action", f"{ROOT}/action", f"{ROOT}/distribution"])
def test_options(server: RunningServer, document: dict, path: str, name: str) -> None:
    schema = body_schema(document, path)
    for ok, values in zip((True, False), FIELDS[Options, name], strict=True):
        for value in values:
            options = {"timeout_ms": 5000, name: value}
            if name == "min_train_step" and ok and value > 0:
                options["timeout_ms"] = 1  # there are none so new
            agree(server, schema, path, {"observation": OBSERVATION, "options": options}, ok=ok)


@pytest.mark.parametrize("name", BEGIN)
@pytest.mark.parametrize("root", ["", ROOT])
def test_fields_of_a_session_that_starts(server: RunningServer, document: dict, root: str, name: str) -> None:
    schema = body_schema(document, f"{root}/sessions")
    for ok, values in zip((True, False), FIELDS[BeginRequest, name], strict=True):
        for value in [value for value in values if value is not None]:  # null leaves it to the server
            body = {"observation": OBSERVATION, name: value}
            if name != "run_id":
                body["run_id"] = "limits"
            response = agree(server, schema, f"{root}/sessions", body, ok=ok)
            if ok and name == "id":
                assert response.json()["id"] == value
                assert server.http.delete(f"{root}/sessions/{value}", params={"run_id": "limits"}).status_code == 204


@pytest.mark.parametrize("name", STEP)
@pytest.mark.parametrize("root", ["", ROOT])
def test_fields_of_a_step(server: RunningServer, document: dict, root: str, name: str) -> None:
    schema = body_schema(document, f"{root}/sessions/{{id}}/action")
    for ok, values in zip((True, False), FIELDS[StepRequest, name], strict=True):
        for value in [value for value in values if value is not None]:
            observation = [OBSERVATION] * len(value) if isinstance(value, list) else OBSERVATION
            id_ = server.http.post(f"{root}/sessions", json={"observation": observation}).json()["id"]
            agree(server, schema, f"{root}/sessions/{id_}/action", {"observation": observation, name: value}, ok=ok)
            assert server.http.delete(f"{root}/sessions/{id_}").status_code == 204


@pytest.mark.parametrize(("run_id", "status"), [("x", 404), ("x" * 128, 404), ("x" * 129, 422), ("", 422)])
def test_run_id_of_a_session_that_ends(server: RunningServer, document: dict, run_id: str, status: int) -> None:
    (parameter,) = document["paths"]["/sessions/{id}"]["delete"]["parameters"]
    validator = jsonschema.Draft202012Validator(parameter["schema"])
    assert validator.is_valid(run_id) is (status != 422)
    assert server.http.delete("/sessions/none", params={"run_id": run_id}).status_code == status


def test_rows_of_a_request(server: RunningServer, document: dict) -> None:
    schemas = document["components"]["schemas"]
    most = schemas["cartpole.request"]["properties"]["observation"]["anyOf"][1]["maxItems"]
    assert schemas["cartpole.session.step"]["properties"]["first"]["anyOf"][1]["maxItems"] == most
    assert schemas["cartpole.get_initial_state.request"]["properties"]["batch_size"]["maximum"] == most
    for rows, status in ((most, 200), (most + 1, 422)):
        assert server.http.post(f"{ROOT}/action", json={"observation": [OBSERVATION] * rows}).status_code == status
        assert server.http.post(f"{ROOT}/get_initial_state", json={"batch_size": rows}).status_code == status


@pytest.mark.parametrize("path", [f"{ROOT}/action", f"{ROOT}/get_initial_state", "/sessions"])
def test_bytes_of_a_body(server: RunningServer, document: dict, path: str) -> None:
    described = document["paths"][path]["post"]["requestBody"]["description"]
    found = re.search(r"(\d+) bytes as JSON", described)
    assert found
    for size, refused in ((int(found[1]), False), (int(found[1]) + 1, True)):
        response = server.http.post(path, content=b"{}".ljust(size))
        assert (response.status_code == 413) is refused, response.text
