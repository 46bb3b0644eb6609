"""Which routes are in the document, and what is said of each."""

import json
from typing import Any

import pytest

from app.api.openapi.document import document
from app.experience.query import PARAMETERS
from app.experience.schema import columns_of
from tests.support.openapi import ROWS, SPECS, policy, whole

DATA_ROUTES = ("action", "distribution", "get_initial_state")
OPEN_PATHS = {"/livez", "/healthz", "/readyz", "/metrics"}
SESSION_ROUTES = ("sessions", "sessions/{id}", "sessions/{id}/action", "experience")


def test_what_no_schema_can_say_is_said_of_the_body() -> None:
    described = whole(policy(SPECS["flat"], body_limit_bytes=0))
    for path, limit in (("action", "67808 bytes as JSON"), ("get_initial_state", "65536 bytes as JSON")):
        assert limit in described["paths"][f"/v1/policies/p/{path}"]["post"]["requestBody"]["description"]
    for path in ("sessions", "sessions/{id}/action"):
        body = described["paths"][f"/v1/policies/p/{path}"]["post"]["requestBody"]
        assert f"at most {ROWS} rows" in body["description"]


def test_sessions_name_the_statuses_that_can_happen() -> None:
    paths = whole(policy(SPECS["flat"]))["paths"]
    asked = {"400", "401", "404", "409", "413", "415", "422", "429", "500", "501", "503", "504"}
    for root in ("/sessions", "/v1/policies/p/sessions"):
        assert set(paths[root]["post"]["responses"]) == {"201", *asked}
        assert set(paths[root + "/{id}/action"]["post"]["responses"]) == {"200", *asked}
        assert set(paths[root + "/{id}"]["get"]["responses"]) == {"200", "401", "404", "500", "501", "503"}
        ended = set(paths[root + "/{id}"]["delete"]["responses"])
        assert ended == {"204", "401", "404", "409", "422", "500", "501", "503"}


def test_every_policy_has_its_routes_and_the_first_is_the_default():
    described = whole(policy(SPECS["flat"], "first"), policy(SPECS["nested"], "second"))
    assert set(described["paths"]) == {
        *(f"/v1/policies/{name}/{route}" for name in ("first", "second") for route in (*DATA_ROUTES, *SESSION_ROUTES)),
        *(f"/{route}" for route in (*DATA_ROUTES, *SESSION_ROUTES)),
    }
    methods = ("post", "get", "delete")
    operations = [path[method] for path in described["paths"].values() for method in methods if method in path]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    default = described["paths"]["/action"]["post"]
    assert "first.request" in json.dumps(default["requestBody"])
    assert default["tags"] == ["first, the default policy"]
    begin = described["paths"]["/sessions"]["post"]
    assert "first.session.begin" in json.dumps(begin["requestBody"])
    assert (begin["operationId"], begin["tags"]) == ("default.session.begin", ["first, the default policy"])


def test_policies_without_time_steps_have_no_routes_of_sessions():
    described = whole(policy(SPECS["custom"], "custom"))
    assert not [path for path in described["paths"] if "sessions" in path or "experience" in path]


def test_the_route_of_experience_names_its_parameters_and_a_column_for_each_leaf() -> None:
    described = whole(policy(SPECS["nested"]))
    read = described["paths"]["/v1/policies/p/experience"]["get"]
    assert [parameter["name"] for parameter in read["parameters"]] == [*PARAMETERS]
    assert set(read["responses"]) == {"200", "401", "404", "422", "429", "500", "501", "503"}
    columns = described["components"]["schemas"]["p.experience"]["properties"]["columns"]["properties"]
    assert [*columns] == [column.name for column in columns_of(policy(SPECS["nested"]).spec)]
    assert described["paths"]["/experience"]["get"]["operationId"] == "default.experience"


def test_every_body_may_be_json_or_msgpack():
    for path in whole(policy(SPECS["flat"]))["paths"].values():
        if "post" not in path:
            continue
        answers = path["post"]["responses"]
        for bodies in (path["post"]["requestBody"], answers.get("200") or answers["201"]):
            assert list(bodies["content"]) == ["application/json", "application/msgpack"]
            binary = bodies["content"]["application/msgpack"]["schema"]
            assert binary["format"] == "binary"
            assert "docs/reference/binary.md" in binary["description"]


def test_every_reference_leads_somewhere():
    described = whole(*(policy(spec, f"p{i}") for i, spec in enumerate(SPECS.values())))

    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [found for item in part for found in references(item)]
        if not isinstance(part, dict):
            return []
        here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return here + references(list(part.values()))

    found = references(described)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in described["components"]["schemas"]


@pytest.mark.parametrize("admin", [True, False])
@pytest.mark.parametrize("data", [True, False])
def test_only_routes_that_ask_for_a_token_have_a_lock(admin: bool, data: bool) -> None:
    base = {"openapi": "3.1.0", "paths": {}}
    for path in ("/admin/policies/{policy}/reload", "/v1/policies"):
        base["paths"][path] = {"get": {}}
    for path in OPEN_PATHS:
        base["paths"][path] = {"get": {"tags": ["health"]}}
    found = document(base, [policy(SPECS["image"])], admin_token=admin, data_token=data)
    locked = {
        path for path, operations in found["paths"].items() if any("security" in part for part in operations.values())
    }
    admins = {path for path in found["paths"] if path.startswith("/admin")}
    datas = set(found["paths"]) - admins - OPEN_PATHS
    assert {"/action", "/v1/policies/p/action", "/v1/policies/p/sessions"} <= datas
    assert locked == (admins if admin else set()) | (datas if data else set())
    assert ("securitySchemes" in found["components"]) == (admin or data)
