"""The console: its files, which are open to all, and the stream of what it shows, which the data token guards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

import app.console
from app.api.access import Guard
from app.api.console import EventStream, Pages

_FOLDER = Path(app.console.__file__).parent / "static"
_INDEX = "index.html"
# Nothing but these is sent, whatever else an editor leaves in the folder.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


def console_router(pages: Pages, guard: Guard, *, at_root: bool) -> APIRouter:
    """Makes the routes. `at_root`: whether `/` leads to the page, where nothing else is there."""
    router = APIRouter(include_in_schema=False)
    files = dict(_files())

    @router.api_route("/console/events", methods=["GET", "HEAD"], dependencies=[Depends(guard)])
    async def events(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        pages.check_room()
        return EventStream(pages)

    @router.api_route("/console", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _response(files, _INDEX, request)

    @router.api_route("/console/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str, request: Request) -> Response:
        if not path:
            return _moved("../console")  # the page's own links start from where it is
        return _response(files, path, request)

    if at_root:

        @router.api_route("/", methods=["GET", "HEAD"])
        async def root(request: Request) -> Response:
            if "sec-websocket-key" in request.headers:  # a client of OpenPI, for which nothing is here
                raise HTTPException(404)
            return _moved("console")

    return router


def _files() -> Iterator[tuple[str, _File]]:
    """Yields the page's files by their paths. They are read once: a path of a request never names one on the disk."""
    for path in sorted(_FOLDER.rglob("*")):
        media_type = _TYPES.get(path.suffix)
        if media_type is not None and path.is_file():
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield path.relative_to(_FOLDER).as_posix(), _File(content, media_type, tag)


def _response(files: dict[str, _File], path: str, request: Request) -> Response:
    found = files.get(path)
    if found is None:
        raise HTTPException(404)
    headers = {**_HEADERS, "ETag": found.tag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if found.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


def _moved(to: str) -> Response:
    return Response(status_code=307, headers={"Location": to})
