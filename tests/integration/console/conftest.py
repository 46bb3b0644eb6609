"""One server and one browser for all tests of the console's page."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.axe import NoAxe, axe
from tests.support.server import RunningServer, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.browser import Watched
    from tests.support.console_policies import Trainer


@pytest.fixture(scope="package")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Trainer]":
    from tests.support.console_policies import MAKERS, Trainer

    folder = tmp_path_factory.mktemp("console")
    return {name: Trainer(name, folder / name) for name in MAKERS}


@pytest.fixture(scope="package")
def console_server(trainers: "dict[str, Trainer]") -> Iterator[RunningServer]:
    """Serves one policy of each kind; tests may swap weights, and leave no policy paused."""
    with serving({name: trainer.folder for name, trainer in trainers.items()}) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> "Iterator[Browser]":
    # No event loop runs in this thread while it is open: hence not for the whole session.
    from tests.support.browser import NoBrowser, running_browser

    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(running_browser())
        except NoBrowser as error:
            pytest.skip(f"{error}: what the console's page shows is not tested")
        yield found


OpenPage = Callable[..., "Watched"]


@pytest.fixture
def open_page(browser: "Browser", console_server: RunningServer) -> Iterator[OpenPage]:
    """Opens the console at a view; errors on its console, and requests to others, fail the test at its end.

    `fed`: a state that it is to show in the place of the server's.
    """
    from tests.support.browser import watched_page
    from tests.support.console_stream import feed

    with contextlib.ExitStack() as stack:

        def opened(view: str = "", url: str = console_server.url, fed: Any = None, **options: Any) -> "Watched":
            watched = stack.enter_context(watched_page(browser, url, **options))
            if fed is not None:
                feed(watched.page, fed)
            watched.page.goto(f"{url}/console{view}")
            return watched

        yield opened


@pytest.fixture(scope="session")
def axe_script() -> str:
    try:
        return axe()
    except NoAxe as error:
        pytest.skip(f"{error}: who can use the console's page is not tested")
