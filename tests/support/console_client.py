"""A page's side of the console's stream: its events as they come, and the state that they make."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from app.wire.merge_patch import apply


@dataclass(frozen=True)
class Event:
    at: float
    id: str
    kind: str
    data: Any


class Stream:
    """Follows a stream in a thread of its own. `state`: as it is by now; `events` and `comments`: what has come."""

    def __init__(self, url: str, token: str = "") -> None:
        self.events: list[Event] = []
        self.comments: list[str] = []
        self.retry = ""
        self.state: dict[str, Any] = {}
        self.ended = ""
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._news = threading.Condition()
        self._client = httpx.Client(trust_env=False, timeout=60)
        self._thread = threading.Thread(target=self._follow, args=(f"{url}/console/events",))

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._response.stream.close()  # type: ignore[union-attr]
        self._client.close()
        self._thread.join(10)

    def until(self, condition: Callable[[dict[str, Any]], object], what: str = "it", timeout_s: float = 120) -> float:
        """Waits until the state is so; returns when the event came that made it so."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not (self.state and condition(self.state)):
                assert not self.ended, f"the stream has ended: {self.ended}"
                assert self._news.wait(deadline - time.monotonic()), f"{what} has not come about: {self.state}"
            return self.events[-1].at

    def until_ended(self, timeout_s: float = 120) -> str:
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not self.ended:
                assert self._news.wait(deadline - time.monotonic()), "the stream goes on"
        return self.ended

    def _follow(self, url: str) -> None:
        try:
            with self._client.stream("GET", url, headers=self._headers) as self._response:
                self._response.raise_for_status()
                fields: dict[str, str] = {}
                for line in self._response.iter_lines():
                    fields = self._take(fields, line)
            self._end("the end")
        except Exception as error:
            self._end(repr(error))

    def _take(self, fields: dict[str, str], line: str) -> dict[str, str]:
        """Takes a line; returns the fields of the event that it belongs to, as far as they have come."""
        if line.startswith(":"):
            self.comments.append(line)
            return fields
        if line:
            name, _, value = line.partition(":")
            return {**fields, name: value.removeprefix(" ")}
        if "data" in fields:
            self._add(Event(time.time(), fields.get("id", ""), fields["event"], json.loads(fields["data"])))
        self.retry = fields.get("retry", self.retry)
        return {}

    def _add(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            if event.kind == "state":
                self.state = event.data
            elif event.kind == "patch":
                apply(self.state, event.data)
            self._news.notify_all()

    def _end(self, how: str) -> None:
        with self._news:
            self.ended = how
            self._news.notify_all()
