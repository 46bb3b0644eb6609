"""Answers → bytes on a connection."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from app.api.access import UNIX_SOCKET, client_at
from app.api.connection_limits import SharedLimits
from app.batching.cork import Cork

_OK = STATUS_LINE[200]
_MOST_HEADS = 1024


class _Closed:
    """Replaces a transport whose connection is lost, so that nothing keeps the real one in memory."""

    def is_closing(self) -> bool:
        """Returns that it closes."""
        return True

    def get_write_buffer_size(self) -> int:
        """Returns that nothing is left to be sent."""
        return 0

    def _nothing(self, *_: Any) -> None: ...

    write = close = abort = pause_reading = resume_reading = get_extra_info = _nothing


CLOSED: Any = _Closed()


class AnswerWriter(asyncio.Protocol):
    """The half of a connection that writes.

    `stays`: whether the connection is open after the answer under way. `odd`: whether there is more to do after it
    than to wait for the next request. `closing`: whether nothing is read or written any more. `shared` and `cork` are
    set by `protocol_with`.
    """

    shared: SharedLimits
    cork: Cork
    # uvicorn's list of the header fields that every answer has, their text, and usual heads by type and length of body.
    _common: tuple[Any, bytes, dict[tuple[bytes, int], bytes]] = (None, b"", {})

    def __init__(self, server_state: ServerState) -> None:
        self.server_state = server_state
        self.transport: asyncio.Transport = CLOSED
        self.stays = True
        self.odd = self.closing = False
        self.write_paused = False
        self._written: asyncio.Event | None = None

    def answered(self) -> None:
        """See `Connection`."""
        raise NotImplementedError

    def client(self) -> str:
        """Returns the address that sessions of this client count by; see `client_at`."""
        remote = get_remote_addr(self.transport)
        return client_at(remote[0] if remote else UNIX_SOCKET)

    def may_stay(self) -> bool:
        """Returns whether the connection stays open after the answer under way."""
        raise NotImplementedError

    def settle(self) -> None:
        """Continues with what is next."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Starts no more of a client's requests: it does not read as fast as it is answered."""
        self.write_paused = self.odd = True

    def resume_writing(self) -> None:
        """Continues: the client has read most of what was written."""
        self.write_paused = False
        self.shared.unread.discard(self)
        if self._written is not None:
            self._written.set()
        self.settle()

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """See `Connection`."""
        if self.odd or not self.stays:
            self.write_head(_OK, _fields(media_type, len(body)), body)
        else:
            common, heads = self._usual_head()
            head = heads.get((media_type, len(body)))
            if head is None:
                head = b"".join((_OK, common, _fields(media_type, len(body)), b"\r\n"))
                if len(heads) < _MOST_HEADS:
                    heads[media_type, len(body)] = head
            self.write(head + body)
        self.answered()

    def write_response(self, response: Response) -> None:
        """See `Connection`."""
        fields = b"".join([b"%b: %b\r\n" % field for field in response.raw_headers])
        self.write_head(STATUS_LINE[response.status_code], fields, bytes(response.body))
        self.answered()

    def write_head(self, status: bytes, fields: bytes, body: bytes) -> None:
        """See `Connection`."""
        if self.odd and self.stays:
            self.stays = self.may_stay()
        end = b"\r\n" if self.stays else b"connection: close\r\n\r\n"
        self.write(b"".join((status, self._usual_head()[0], fields, end, body)))

    def write(self, data: bytes) -> None:
        """See `Connection`. What is not the usual answer is never held back: the connection may be closed behind it."""
        if self.odd or not self.stays:
            self.cork.send_all()
        elif self.cork.hold(self, data):
            return
        self.write_now(data)

    def write_now(self, data: bytes) -> None:
        """See `Sender`."""
        if self.closing:
            return
        self.transport.write(data)
        if self.write_paused:
            self.shared.unread.add(self, len(data))

    async def drain(self) -> None:
        """See `Connection`."""
        while self.write_paused and not self.closing:
            self._written = asyncio.Event()
            await self._written.wait()

    def close_after_answer(self) -> None:
        """See `Connection`."""
        self.stays = False

    def unread_bytes(self) -> int:
        """See `Owner`."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """See `Owner`."""
        self.closing = self.odd = True
        self.transport.abort()

    def evict(self) -> None:
        """See `Owner`."""
        raise NotImplementedError

    def _usual_head(self) -> tuple[bytes, dict[tuple[bytes, int], bytes]]:
        """Returns the header fields of every answer, date first, and heads that begin with them: see `_common`."""
        known, text, heads = self._common
        headers = self.server_state.default_headers
        if headers is not known:  # uvicorn makes a new list each second
            text, heads = b"".join([b"%b: %b\r\n" % header for header in headers]), {}
            type(self)._common = headers, text, heads
        return text, heads


def _fields(media_type: bytes, length: int) -> bytes:
    return b"content-length: %d\r\ncontent-type: %b\r\n" % (length, media_type)
