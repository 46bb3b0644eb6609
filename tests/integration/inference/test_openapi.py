"""The OpenAPI document describes every policy, and what it says is true of real questions and answers."""

import jsonschema
import pytest

from tests.support import policies
from tests.support.server import RunningServer


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict:
    return server.http.get("/openapi.json").json()


def _schema(document: dict, reference: dict) -> dict:
    """A schema by reference, with the components that it may refer to."""
    return {**reference, "components": document["components"]}


def test_every_policy_has_its_own_routes_and_the_default_one_short_ones(document: dict) -> None:
    for route in ("action", "distribution", "get_initial_state"):
        assert f"/{route}" in document["paths"]
        for name in policies.MAKERS:
            assert f"/v1/policies/{name}/{route}" in document["paths"]


@pytest.mark.parametrize("name", policies.MAKERS)
@pytest.mark.parametrize("route", ["action", "distribution", "get_initial_state"])
def test_examples_and_answers_are_what_the_document_says(
    server: RunningServer, document: dict, name: str, route: str
) -> None:
    operation = document["paths"][f"/v1/policies/{name}/{route}"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    example = _resolved(document, request).get("example", {"batch_size": 2})
    jsonschema.validate(example, _schema(document, request))
    response = server.http.post(f"/v1/policies/{name}/{route}", json=example)
    assert response.status_code == 200, response.text
    jsonschema.validate(response.json(), _schema(document, answer))


@pytest.mark.parametrize("name", policies.MAKERS)
def test_sessions_are_what_the_document_says(server: RunningServer, document: dict, name: str) -> None:
    root = f"/v1/policies/{name}/sessions"
    begin, step = document["paths"][root]["post"], document["paths"][root + "/{id}/action"]["post"]
    begin_request, step_request = (o["requestBody"]["content"]["application/json"]["schema"] for o in (begin, step))
    example = _resolved(document, begin_request)["example"]
    body = {"id": "of-the-document", "run_id": "r", "weights": "episode", **example}
    jsonschema.validate(body, _schema(document, begin_request))
    response = server.http.post(root, json=body)
    assert response.status_code == 201
    answers = begin["responses"]["201"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), _schema(document, answers))
    body = {"step": 1, "first": False, **example}
    jsonschema.validate(body, _schema(document, step_request))
    answers = step["responses"]["200"]["content"]["application/json"]["schema"]
    answer = server.http.post(f"{root}/of-the-document/action", json=body).raise_for_status().json()
    jsonschema.validate(answer, _schema(document, answers))
    described = document["paths"][root + "/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(server.http.get(f"{root}/of-the-document").json(), _schema(document, described))
    conflict = server.http.post(f"{root}/of-the-document/action", json={"step": 9, **example})
    jsonschema.validate(conflict.json(), _schema(document, {"$ref": "#/components/schemas/Problem"}))
    assert server.http.delete(f"{root}/of-the-document").status_code == 204


def test_problems_are_what_the_document_says(server: RunningServer, document: dict) -> None:
    problem = server.http.post("/action", json={"observation": [1]}).json()
    jsonschema.validate(problem, _schema(document, {"$ref": "#/components/schemas/Problem"}))


def test_a_wrong_shape_is_wrong_by_the_document_too(document: dict) -> None:
    request = {"$ref": "#/components/schemas/cartpole.request"}
    for body in ({"observation": [1, 2, 3]}, {"observation": ["x"] * 4}, {}, {"observation": [[1, 2]]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, _schema(document, request))


def test_the_page_needs_no_other_server(server: RunningServer) -> None:
    page = server.http.get("/docs").text
    assert "https://" not in page.replace("https://fastapi", "")
    assert server.http.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def _resolved(document: dict, reference: dict) -> dict:
    return document["components"]["schemas"][reference["$ref"].rsplit("/", 1)[1]]
