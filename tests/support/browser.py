"""Headless Chromium for tests of the console, driven by Playwright: Debian's `chromium`, or another one here."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 60_000  # of a machine that is busy with other tests
# What the browser itself writes about an answer of 400 or more, or none: for tests that provoke one.
NOT_LOADED = r"Failed to load resource"


class NoBrowser(Exception):
    """No Chromium is installed."""


def find_chromium() -> str:
    """Returns the path of Chromium's program; raises NoBrowser."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise NoBrowser(f"none of {', '.join(NAMES)} is installed on this machine")
    return found


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Runs one until the block ends. No event loop can run in this thread meanwhile."""
    program = find_chromium()
    # As root, and in containers, its sandbox does not work; it only sees the page of a server on this machine.
    options = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what went wrong on it."""

    page: Page
    host: str
    messages: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str = NOT_LOADED) -> None:
        """Lets the test provoke messages that contain this."""
        self.allowed.append(pattern)

    def check(self) -> None:
        """Fails where the page wrote an error to its console, or asked another host for anything."""
        wrong = [text for text in self.messages if not any(re.search(one, text) for one in self.allowed)]
        assert not wrong, f"on the page's console: {wrong}"
        assert not self.elsewhere, f"asked of other hosts: {self.elsewhere}"

    def _write(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.messages.append(f"{message.type}: {message.text}")

    def _ask(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.host:
            self.elsewhere.append(request.url)


@contextlib.contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """Opens a page of `url`'s host in a context of its own; checks it at the end of the block.

    `options` are those of Playwright's new_context.
    """
    context: BrowserContext = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", "base_url": url, **options}
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    watched = Watched(page, urlsplit(url).netloc)
    page.on("console", watched._write)
    page.on("pageerror", lambda error: watched.messages.append(f"exception: {error}"))
    page.on("request", watched._ask)
    try:
        yield watched
        watched.check()
    finally:
        context.close()


def violations(page: Page, script: str) -> list[str]:
    """What axe-core finds wrong with the page as it is now."""
    page.evaluate(script)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [f"{one['id']}: {node['target']}: {node['failureSummary']}" for one in found for node in one["nodes"]]
