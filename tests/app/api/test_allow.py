"""Whatever way the framework keeps the routes: `Allow` names every method of a path."""

import asyncio

import httpx
from fastapi import APIRouter, FastAPI

from app.api import problems


def test_allow_names_the_methods_of_all_routes_of_a_path() -> None:
    app, router = FastAPI(), APIRouter(prefix="/v1")

    async def nothing() -> None:
        pass

    for method in ("GET", "DELETE", "PUT"):
        router.add_api_route("/{name}", nothing, methods=[method])
    router.add_api_route("/{name}/more", nothing, methods=["POST"])
    app.include_router(router)
    problems.install(app)

    async def allowed(method: str, path: str) -> str | None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return (await client.request(method, path)).headers.get("allow")

    assert asyncio.run(allowed("POST", "/v1/x")) == "DELETE, GET, PUT"
    assert asyncio.run(allowed("GET", "/v1/x/more")) == "POST"
    assert asyncio.run(allowed("GET", "/v2")) is None
