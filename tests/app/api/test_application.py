"""The application as a whole: who may read it from other pages, and a document that grows with the policies."""

from typing import Any

import httpx
import pytest

from app import __version__
from app.api.application import build_app
from app.api.console import Pages
from app.inference.service import Service
from app.metrics import Metrics
from app.settings import Settings
from tests.support.openapi import SPECS, policy

pytestmark = pytest.mark.anyio


def application(service: Any, **settings: Any) -> Any:
    sessions: Any = None  # nothing here asks for one
    pages: Any = Pages(lambda _: None)  # type: ignore[arg-type, return-value]
    return build_app(service, sessions, Metrics(), Settings((), **settings), pages)


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


async def test_the_document_has_a_policy_from_when_it_is_open() -> None:
    service = Service(("first", "second"), 1000, 64)
    app = application(service)
    async with client(app) as http:
        for name in ("second", "first"):
            service.add(policy(SPECS["flat"], name))
            described = (await http.get("/openapi.json")).json()
            assert f"/v1/policies/{name}/action" in described["paths"]
        assert described["info"]["version"] == __version__
        assert described["paths"]["/action"]["post"]["tags"] == ["first, the default policy"]
        assert app.openapi() is app.openapi()  # made once


async def test_only_origins_that_are_named_may_read_answers() -> None:
    asked = {"Origin": "http://game", "Access-Control-Request-Method": "POST"}
    for origins, allowed in (("", False), ("http://other", False), ("http://other, http://game", True), ("*", True)):
        async with client(application(Service(("p",), 1000, 64), cors_origins=origins)) as http:
            answer = await http.options("/action", headers=asked)
            assert ("access-control-allow-origin" in answer.headers) is allowed, origins


async def test_a_path_with_a_slash_too_many_is_not_redirected() -> None:
    """The redirection would lead to whatever host the request names."""
    async with client(application(Service(("p",), 1000, 64))) as http:
        assert (await http.get("/livez/", headers={"Host": "elsewhere"})).status_code == 404


async def test_nothing_that_the_pages_of_documentation_load_comes_from_elsewhere() -> None:
    async with client(application(Service(("p",), 1000, 64))) as http:
        page = (await http.get("/docs")).text
        assert "https://" not in page
        assert (await http.get("/redoc")).status_code == 404
