"""Paths and methods that nobody answers, and what is said of those that are answered."""

import httpx
import pytest

from app.wire import msgpack_body
from tests.support.server import RunningServer

OBSERVATION = [0.1, -0.2, 0.3, -0.4]
POLICY = "/v1/policies/cartpole"


@pytest.mark.parametrize("path", ["/v1/policies/", f"{POLICY}/", f"{POLICY}/train_step/", "/action/", "/livez/"])
def test_no_path_leads_to_the_host_that_the_request_names(server: RunningServer, path: str) -> None:
    for method in ("GET", "POST"):
        answer = server.http.request(method, path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404
        assert "location" not in answer.headers
        assert "evil" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", f"{POLICY}/sessions/x", "DELETE, GET"),
        ("POST", "/sessions/x", "DELETE, GET"),
        ("GET", "/sessions", "POST"),
        ("DELETE", f"{POLICY}/action", "POST"),
        ("GET", "/action", "POST"),
        ("POST", "/v1/policies", "GET"),
        ("POST", "/livez", "GET, HEAD"),
        ("POST", "/admin/policies/cartpole/checkpoints/x", "PUT"),
        ("GET", "/admin/policies/cartpole/reload", "POST"),
    ],
)
def test_every_method_of_a_path_is_named(server: RunningServer, method: str, path: str, allowed: str) -> None:
    answer = server.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/action", f"{POLICY}/distribution", f"{POLICY}/sessions"])
def test_options_that_are_null_are_none(server: RunningServer, path: str) -> None:
    body = {"observation": OBSERVATION, "options": None}
    packed = {"content": msgpack_body.encode(body), "headers": {"content-type": "application/msgpack"}}
    for answer in (server.http.post(path, json=body), server.http.post(path, **packed)):
        assert answer.status_code == 422
        assert "options: null; expected an object" in answer.text


def test_what_is_refused_is_described_in_the_document(server: RunningServer) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method not in httpx_methods() or path in ("/livez", "/readyz", "/healthz", "/metrics"):
                continue
            answers = set(operation["responses"])
            expected = {"401"}
            if path.startswith("/v1/policies/"):
                expected |= {"404"}
            if path.startswith("/admin"):
                expected |= {"403", "404", "409", "504"}
            if method == "post" and not path.startswith("/admin"):
                expected |= {"404", "409", "413", "415", "422"}
            assert expected <= answers, (path, method)
            for status in answers - {"200", "201", "204"}:
                (schema,) = operation["responses"][status]["content"].values()
                assert schema == {"schema": {"$ref": "#/components/schemas/Problem"}}, (path, method, status)


def httpx_methods() -> set[str]:
    return {"get", "post", "put", "delete"} & {name for name in dir(httpx) if name.islower()}
