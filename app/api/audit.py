"""The audit log: one line for each call of an admin route, allowed or not, with its status."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

audit = logging.getLogger("policy_server.audit")
# Those of the own protocol, and of the Open Inference Protocol.
_ROOTS = ("/admin", "/v2/repository/models")


class Audited:
    """Wraps an application, and logs each call of an admin route when it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_ROOTS):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            client = scope.get("client")
            audit.info(
                "%s %s from %s: %s after %.0f ms",
                _plain(scope["method"]),
                _plain(scope["path"]),
                _plain(client[0]) if client else "unknown",
                status or "no answer",
                (time.perf_counter() - started) * 1000,
            )


def _plain(text: str) -> str:
    """Escapes whatever could look like another part of the line, or another line."""
    return quote(text, safe="/:@!$&'()*+,;=~[]", errors="backslashreplace")
