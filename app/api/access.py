"""Who may call: bearer tokens, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request

from app.errors import Forbidden, Unauthorized
from app.settings import variable

# Coroutines: FastAPI would give each call of a plain function a thread.
Guard = Callable[[Request], Awaitable[None]]


def admin_guard(token: str) -> Guard:
    """A dependency that lets admin calls pass. Without a configured token nobody passes."""

    async def guard(request: Request) -> None:
        if not token:
            raise Forbidden(f"the admin routes are closed: set {variable('admin_token')} and start again")
        _compare(request, token)

    return guard


def data_guard(token: str) -> Guard:
    """A dependency that lets data calls pass. Without a configured token everybody passes."""

    async def guard(request: Request) -> None:
        if token:
            _compare(request, token)

    return guard


def check_bearer(header: str, token: str) -> bool:
    """Whether the value of an Authorization header holds this token."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _compare(request: Request, token: str) -> None:
    header = request.headers.get("authorization", "")
    if check_bearer(header, token):
        return
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("no token: expected the header Authorization: Bearer <token>")
    raise Unauthorized("the token is wrong")
