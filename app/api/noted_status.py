"""The status of an answer, noted as it is sent, for layers around the framework's application."""

from __future__ import annotations

from starlette.types import Message, Send


class NotedStatus:
    """What an application is to send with, in the place of `send`. `status`: that of the answer, 0 without one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """See ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
