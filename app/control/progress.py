"""Progress of a server that starts: a line for each step, and a bar where a person looks on."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from app.logs import about

log = logging.getLogger("policy_server.start")


class Progress:
    """Lines in the log."""

    def opens(self, policy: str, folder: str) -> None:
        """Says that a policy is being opened."""
        log.info("%s: opens %s", policy, folder, extra=about(policy))

    def step(self, policy: str, step: str, seconds: float) -> None:
        """Says that one step of opening it is done."""
        log.info("%s: %s in %.1f s", policy, step, seconds, extra=about(policy))

    def opened(self, policy: str, what: str, seconds: float) -> None:
        """Says that it is open."""
        log.info("%s: opened in %.1f s: %s", policy, seconds, what, extra=about(policy))

    def failed(self, policy: str, reason: str) -> None:
        """Says that it cannot be opened."""
        log.error("%s: cannot be opened: %s", policy, reason, extra=about(policy))

    def note(self, text: str) -> None:
        """Says what is done for all of them."""
        log.info("%s", text)


class Bar(Progress):
    """A bar over all policies that says what goes on, and a line for each that is done."""

    def __init__(self, bar: Any, policies: int) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=policies)

    def opens(self, policy: str, folder: str) -> None:
        """See `Progress`."""
        self._bar.update(self._task, description=f"{policy}: opens {folder}")

    def step(self, policy: str, step: str, seconds: float) -> None:
        """See `Progress`."""
        self._bar.update(self._task, description=f"{policy}: {step} in {seconds:.1f} s")

    def opened(self, policy: str, what: str, seconds: float) -> None:
        """See `Progress`."""
        self._bar.console.print(f"{policy}: opened in {seconds:.1f} s: {what}", markup=False, highlight=False)
        self._bar.advance(self._task)

    def failed(self, policy: str, reason: str) -> None:
        """See `Progress`."""
        self._bar.console.print(f"{policy}: cannot be opened: {reason}", markup=False, highlight=False)
        self._bar.advance(self._task)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._bar.update(self._task, description=text)


class Showing(Progress):
    """A bar on a terminal while the server starts, and lines in the log otherwise."""

    def __init__(self, *, as_text: bool) -> None:
        self._as_text = as_text
        self._now = Progress()

    @contextlib.contextmanager
    def bar(self, policies: int) -> Iterator[None]:
        """Shows a bar over so many policies within the block, where standard error is a terminal."""
        if not (self._as_text and sys.stderr.isatty()):
            yield
            return
        from rich import progress  # here: a server in the background does without it
        from rich.console import Console

        columns = (progress.SpinnerColumn(), progress.BarColumn(20), progress.MofNCompleteColumn())
        status = (progress.TimeElapsedColumn(), progress.TextColumn("{task.description}", markup=False))
        with progress.Progress(*columns, *status, console=Console(stderr=True), transient=True) as shown:
            self._now = Bar(shown, policies)
            try:
                yield
            finally:
                self._now = Progress()

    def opens(self, policy: str, folder: str) -> None:
        """See `Progress`."""
        self._now.opens(policy, folder)

    def step(self, policy: str, step: str, seconds: float) -> None:
        """See `Progress`."""
        self._now.step(policy, step, seconds)

    def opened(self, policy: str, what: str, seconds: float) -> None:
        """See `Progress`."""
        self._now.opened(policy, what, seconds)

    def failed(self, policy: str, reason: str) -> None:
        """See `Progress`."""
        self._now.failed(policy, reason)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._now.note(text)
