"""The audit log: one line for each call of an admin route, allowed or not, with its status."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.access import UNIX_SOCKET
from app.api.noted_status import NotedStatus
from app.rpc.messages import AdminCall

audit = logging.getLogger("policy_server.audit")
# Those of the own protocol, and of the Open Inference Protocol.
_ROOTS = ("/admin", "/v2/repository/models")

# Of a method or a path, as it is shown.
_LONGEST = 200


class Audited:
    """Wraps an application, and logs each call of an admin route when it has ended. `note` is called with it too."""

    def __init__(self, app: ASGIApp, note: Callable[[AdminCall], None]) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_ROOTS):
            await self._app(scope, receive, send)
            return
        started, noted = time.perf_counter(), NotedStatus(send)
        try:
            await self._app(scope, receive, noted)
        finally:
            client = scope.get("client")
            host = _plain(client[0]) if client else UNIX_SOCKET
            self._note(log_call((_plain(scope["method"]), _plain(scope["path"])), host, noted.status, started))


def log_call(call: tuple[str, str], host: str, status: int, started: float) -> AdminCall:
    """Logs a call of an admin's that has ended, and returns it.

    Args:
      call: its method and path, as they are to be read.
      host: the client's.
      status: of HTTP; 0 where there was no answer.
      started: when it came, on the clock of `perf_counter`.
    """
    took_ms = (time.perf_counter() - started) * 1000
    audit.info("%s %s from %s: %s after %.0f ms", *call, host, status or "no answer", took_ms)
    shown = " ".join([part[:_LONGEST] for part in call])
    return AdminCall(round(time.time(), 3), shown, status, round(took_ms, 3))


def _plain(text: str) -> str:
    """Escapes whatever could look like another part of the line, or another line."""
    return quote(text, safe="/:@!$&'()*+,;=~[]", errors="backslashreplace")
