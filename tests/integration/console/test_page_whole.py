"""The console of a server with a data token, twenty policies and experience, which is killed and comes back."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import expect

from policy_client import RemotePolicy
from tests.integration.console.conftest import OpenPage
from tests.support.browser import PATIENCE_MS, violations
from tests.support.console_page import give_token, wait_for_stream
from tests.support.ports import port_below_outgoing
from tests.support.server import RunningServer, serving

if TYPE_CHECKING:
    from tests.support.console_policies import Trainer

expect.set_options(timeout=PATIENCE_MS)
TOKEN = "a-data-token"
# The first four are what every object of JavaScript has.
NAMES = ["constructor", "toString", "hasOwnProperty", "valueOf", *(f"league-{number:02}" for number in range(16))]


@pytest.fixture(scope="module")
def whole(
    trainers: "dict[str, Trainer]", tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], contextlib.AbstractContextManager[RunningServer]]:
    """Starts the server when it is entered, each time at the same port."""
    port = port_below_outgoing()
    state, recorded = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("recorded")

    @contextlib.contextmanager
    def started() -> Iterator[RunningServer]:
        policies = dict.fromkeys(NAMES, trainers["cartpole"].folder)
        options = ("--port", str(port), "--state-dir", str(state), "--experience-dir", str(recorded))
        with serving(policies, *options, prepared=True, POLICY_SERVER_DATA_TOKEN=TOKEN) as running:
            yield running

    return started


def play(url: str, name: str) -> None:
    """Two episodes of one environment, and the beginning of a third one."""
    seen = np.zeros(4, np.float32)
    with RemotePolicy(url, name, token=TOKEN) as policy, policy.session(seen) as session:
        for kind, reward in ((2, 3.0), (0, 0.0), (1, 4.0), (2, 1.0), (0, 0.0)):
            session.step(seen, step_type=kind, reward=reward)


def test_token_is_asked_for_and_the_page_outlives_the_server(
    open_page: OpenPage, whole: Callable[[], contextlib.AbstractContextManager[RunningServer]], axe_script: str
) -> None:
    with whole() as running:
        watched = open_page(url=running.url)
        watched.allow()
        page = watched.page
        expect(page.get_by_role("heading", name="Data token")).to_be_visible()
        assert violations(page, axe_script) == []
        give_token(page, "no such token")
        expect(page.locator("dialog [role=alert]")).to_be_visible()
        assert violations(page, axe_script) == []
        give_token(page, TOKEN)
        wait_for_stream(page)
        expect(page.locator("table.policies tbody tr")).to_have_count(len(NAMES))
        assert violations(page, axe_script) == []
        for name in ("constructor", "league-15"):
            page.evaluate(f"location.hash = '#/policies/{name}'")
            expect(page.get_by_role("heading", level=1)).to_have_text(name)
            page.get_by_role("button", name="Ask for an action").click()
            expect(page.locator("output.action")).to_be_visible()
        play(running.url, "league-15")
        card = page.locator(".experience")
        version = page.locator(".tile", has_text="Version").locator("dd").text_content() or ""
        returns = card.get_by_role("row", name=version).get_by_role("cell")
        expect(returns).to_have_text(["2", "4"])  # episodes, of which one gained 3 and one 5
        expect(card.locator(".tile", has_text="On disk")).to_be_visible()
        assert violations(page, axe_script) == []
        running.stop(signal.SIGKILL)
        expect(page.locator(".banner")).to_contain_text(re.compile(r"No connection since \d\d:\d\d:\d\d"))
        expect(page.get_by_role("heading", level=1)).to_have_text("league-15")
    with whole():
        wait_for_stream(page)
        expect(page.locator(".banner")).to_have_count(0)
        page.get_by_role("button", name="Ask for an action").click()
        expect(page.locator("output.action")).to_be_visible()
