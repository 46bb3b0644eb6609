"""The audit log: one line for each call of an admin route, let in or not, with how it ended."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

audit = logging.getLogger("policy_server.audit")
_ROOT = "/admin"


class Audited:
    """An application of which each call to an admin route is told in the log when it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_ROOT):
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

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
                (time.perf_counter() - began) * 1000,
            )


def _plain(text: str) -> str:
    """Without anything that could look like another part of the line, or another line."""
    return quote(text, safe="/:@!$&'()*+,;=~[]", errors="backslashreplace")
