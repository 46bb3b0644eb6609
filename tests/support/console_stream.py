"""A stream of the console as a server would send it that is larger, or in worse shape, than a test can start one."""

import json
import time
from collections.abc import Mapping
from typing import Any

from playwright.sync_api import Page


def state(policies: Mapping[str, Mapping[str, Any]], **server: Any) -> dict[str, Any]:
    """A state with these policies; `server` has members of its part "server"."""
    now = time.time()
    about = {
        "version": "0.0.0",
        "started_at": now - 3600,
        "now": now,
        "workers": 1,
        "workers_wanted": 1,
        "restarts": 0,
        "memory_bytes": 2**29,
        "pages": 1,
        "policies": list(policies),
        "admin": True,
    }
    return {"server": about | server, "policies": dict(policies), "rates": {}, "swaps": {}, "audit": []}


def ready(number: int) -> dict[str, Any]:
    """A policy that serves."""
    name = f"{100 * number:010d}"
    version = {"version": name, "digest": "d", "state": "active", "train_step": 100 * number, "engine": "litert"}
    row = {**version, "seen_at": time.time()}
    return {
        "ready": True,
        "version": name,
        "train_step": 100 * number,
        "engine": "litert",
        "versions": [row],
        "versions_total": 1,
    }


def feed(page: Page, first: Mapping[str, Any], *patches: Mapping[str, Any]) -> None:
    """Makes the page's next connections to the stream get this state and these patches, and end."""
    events = [("state", first), *(("patch", patch) for patch in patches)]
    body = "".join(f"event: {event}\ndata: {json.dumps(data)}\n\n" for event, data in events)
    page.route("**/console/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
