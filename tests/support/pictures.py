"""Pictures of the console for the documentation: `python -m tests.support.pictures FOLDER`, as `make pictures` does.

A real server serves one policy of each kind to a few clients, with new weights every few seconds.
"""

import io
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.browser import running_browser, watched_page
from tests.support.console_policies import MAKERS, Trainer
from tests.support.server import RunningServer, serving
from tests.support.steady import threads_running

FILLED_S = 62  # the chart shows a minute, then two
OBSERVATIONS: dict[str, Any] = {
    "cartpole": [0.1, 0, 0, 0],
    "arm": {"joints": [0.3, -0.2, 1], "gripper": {"closed": 0, "force": 0.5}, "target": [[0.2, 0.4], 3]},
    "pilot": [0.1, 0, 0, 0],
}
LARGEST_BYTES = 200_000
COLOURS = 192


def main(folder: Path) -> None:
    """Writes all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-") as exports:
        trainers = {name: Trainer(name, Path(exports, name)) for name in MAKERS}
        served = {name: trainer.folder for name, trainer in trainers.items()}
        with serving(served) as server, running_browser() as browser, load(server):
            take(browser, server, trainers, folder)


def take(browser: Browser, server: RunningServer, trainers: dict[str, Trainer], folder: Path) -> None:
    """Opens a page for each picture, trains for a while, and takes them."""
    large = {"viewport": {"width": 1280, "height": 800}}
    with (
        watched_page(browser, server.url, **large) as overview,
        watched_page(browser, server.url, color_scheme="dark", **large) as policy,
        watched_page(browser, server.url, viewport={"width": 390, "height": 844}) as phone,
    ):
        overview.page.goto("/console")
        policy.page.goto("/console#/policies/cartpole")
        phone.page.goto("/console")
        train(trainers)
        save(overview.page.screenshot(), folder / "console.png")
        ask(policy.page)
        save(policy.page.screenshot(full_page=True), folder / "console-policy-dark.png")
        save(phone.page.screenshot(), folder / "console-phone.png")
        overview.page.goto("/console#/policies/arm")
        overview.page.get_by_role("button", name="Random").click()
        ask(overview.page)
        save(overview.page.locator(".try").screenshot(), folder / "console-try.png")


def train(trainers: dict[str, Trainer]) -> None:
    """Publishes weights now and then; once some that may not serve."""
    started = time.monotonic()
    for number in range(1, 100):
        if time.monotonic() - started > FILLED_S:
            return
        name = ("cartpole", "arm", "rover", "cartpole", "pilot")[number % 5]
        if number == 4:
            trainers["cartpole"].publish_broken(100 * number)
        else:
            trainers[name].publish(100 * number)
        time.sleep(6)


def ask(page: Page) -> None:
    """Asks by the form, with a seed."""
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_label("Mode", exact=True).select_option("sample")
    page.get_by_role("button", name="Ask for").click()
    page.locator("output.action").wait_for()


@contextmanager
def load(server: RunningServer) -> Iterator[None]:
    """A few clients, that ask more and less often as time goes by."""
    over = threading.Event()
    threads = [threading.Thread(target=_ask, args=(server.url, name, over)) for name in OBSERVATIONS]
    with threads_running(threads, over):
        yield


def _ask(url: str, name: str, over: threading.Event) -> None:
    phase = len(name)
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        while not over.wait(0.004 * (1.6 + math.sin(time.monotonic() / 9 + phase))):
            http.post(f"/v1/policies/{name}/action", json={"observation": OBSERVATIONS[name]}).raise_for_status()


def save(png: bytes, file: Path) -> None:
    """Writes a picture with as many colours as it needs, and no more."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file}: {picture.width} × {picture.height}, {size:,} bytes")
    assert size < LARGEST_BYTES, f"{file} is too large for a page: {size:,} bytes"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
