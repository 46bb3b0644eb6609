"""The pages of the console that a worker streams to: one update from the control process → the same bytes to all.

A page that does not read as fast as updates come gets the whole state when it reads on, in their place: nothing piles
up for it. While no page is open here, the control process is asked for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.asgi_cycle import TRANSPORT
from app.errors import NotReady, Overloaded
from app.rate_history import RateHistory
from app.rpc.messages import MOST_CALLS, AdminCall, ConsoleUpdate
from app.sockets import give_up_unanswered
from app.wire.merge_patch import apply

log = logging.getLogger("policy_server.console")

# Each costs a few writes a second. Whoever needs more of them has a load balancer in front of several servers.
MOST_PAGES = 64
# So many updates wait for a page that does not read, some seconds of them.
_MOST_WAITING = 8
# Proxies close what is silent for long; a page has to notice that its server is gone, and a server that its page is.
_HEARTBEAT_S = 2.0
_AGAIN_S = 1.0
# The place of a page whose machine has vanished is free after this long.
_UNANSWERED_S = 20.0
_RETRY_S = 5
_START, _HEARTBEAT = b"retry: 1000\n\n", b": still here\n\n"
_STOP = b'event: stop\ndata: {"detail":"the server stops"}\n\n'
_HEADERS = {
    "Connection": "close",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """One page, and what it is to be sent next. `whole`: returns the event with the whole state, once it is known."""

    def __init__(self, whole: Callable[[], bytes]) -> None:
        self._whole = whole
        self._waiting: list[bytes] = []
        self._behind = True
        self._over = False
        self._ready = asyncio.Event()

    def put(self, event: bytes) -> None:
        """Takes an event; a page for which too many wait gets the whole state in their place."""
        if len(self._waiting) >= _MOST_WAITING:
            self.restart()
        elif not (self._behind or self._over):
            self._waiting.append(event)
            self._ready.set()

    def restart(self) -> None:
        """Has the whole state sent next."""
        if not self._over:
            self._waiting, self._behind = [], True
            self._ready.set()

    def close(self, last: bytes = b"") -> None:
        """Ends the stream with `last`, whatever waits."""
        self._waiting, self._behind, self._over = [last], False, True
        self._ready.set()

    async def next(self) -> bytes:
        """Returns what there is to be sent, once there is anything; nothing at the end."""
        while True:
            if self._behind and (whole := self._whole()):
                self._waiting, self._behind = [whole], False
            if self._waiting or self._over:
                events, self._waiting = b"".join(self._waiting), []
                return events
            self._ready.clear()
            await self._ready.wait()


class Pages:
    """The pages that are open in this process. `after`: returns what comes after an update: see `Console.after`."""

    def __init__(self, after: Callable[[int], Awaitable[ConsoleUpdate]]) -> None:
        self._after = after
        self._pages: set[Page] = set()
        self._calls: deque[AdminCall] = deque(maxlen=MOST_CALLS)
        self._following: asyncio.Task[None] | None = None
        self._stops = False
        self._number = -1
        self._state: dict[str, Any] = {}
        self._history = RateHistory()
        self._event = b""

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._pages)

    def check_room(self) -> None:
        """Returns where one more may be opened.

        Raises:
          Overloaded: as many are open as may be.
          NotReady: the server stops.
        """
        if self._stops:
            raise NotReady("the server stops")
        if len(self._pages) >= MOST_PAGES:
            raise Overloaded(
                f"{MOST_PAGES} pages of the console are open in this process, and no more may be", _RETRY_S
            )

    def open(self) -> Page:
        """Opens one, to be left with `leave`."""
        page = Page(self._whole)
        self._pages.add(page)
        if self._stops:
            page.close(_STOP)
        elif self._following is None:
            self._following = asyncio.create_task(self._follow())
        return page

    def leave(self, page: Page) -> None:
        """Forgets a page that is closed; the last one ends the following of the state."""
        self._pages.discard(page)
        if not self._pages and self._following is not None:
            self._following.cancel()
            self._following, self._number, self._state, self._event = None, -1, {}, b""

    def close(self) -> None:
        """Ends all streams: the server stops."""
        self._stops = True
        for page in self._pages:
            page.close(_STOP)

    def note_call(self, call: AdminCall) -> None:
        """Notes a call of an admin route, for whoever follows."""
        self._calls.append(call)

    def take_calls(self) -> list[AdminCall]:
        """Returns the last calls that were noted since this was asked."""
        calls = list(self._calls)
        self._calls.clear()
        return calls

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    update = await self._after(self._number)
                self._take(update)
            except TimeoutError:
                self._send(_HEARTBEAT)
            except Exception:  # a bug of ours: pages that hear nothing ask again
                log.exception("what the console shows cannot be followed")
                await asyncio.sleep(_AGAIN_S)

    def _take(self, update: ConsoleUpdate) -> None:
        self._number, self._event = update.number, b""
        if update.state:
            self._state = orjson.loads(update.state)
            self._history = RateHistory(self._state.get("history"))
            for page in self._pages:
                page.restart()
        else:
            apply(self._state, orjson.loads(update.patch))
            self._history.add(update.samples)
            self._send(_event(update.number, b"patch", update.patch))

    def _send(self, event: bytes) -> None:
        for page in self._pages:
            page.put(event)

    def _whole(self) -> bytes:
        if self._state and not self._event:
            server = {**self._state["server"], "now": time.time()}
            state = {**self._state, "server": server, "history": self._history.samples}
            self._event = _event(self._number, b"state", orjson.dumps(state))
        return self._event


class EventStream(Response):
    """The stream of one page, until it is closed on either side."""

    media_type = "text/event-stream"

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if (transport := scope.get("extensions", {}).get(TRANSPORT)) is not None:
            give_up_unanswered(transport, _UNANSWERED_S)
        page = self._pages.open()
        watching = asyncio.create_task(_close_with(receive, page))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            events = _START
            while events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
                events = await page.next()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watching.cancel()
            self._pages.leave(page)


def _event(number: int, kind: bytes, data: bytes) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind, data)


async def _close_with(receive: Receive, page: Page) -> None:
    """Closes a page when its client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    page.close()
