"""What the console shows of versions that are tried beside the active one, and what an operator does with them."""

import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.integration.console.conftest import OpenPage
from tests.support.browser import PATIENCE_MS, violations
from tests.support.console_page import give_token
from tests.support.console_stream import ready, state
from tests.support.server import RunningServer

if TYPE_CHECKING:
    from tests.support.console_policies import Trainer

expect.set_options(timeout=PATIENCE_MS)

OBSERVATION = {"observation": [0.0, 0, 0, 0]}


def play(server: RunningServer, policy: str, episodes: int, returns: float) -> set[str]:
    """Plays episodes of one step, each in a session of its own; returns the versions that answered."""
    versions = set()
    for _ in range(episodes):
        root = f"/v1/policies/{policy}/sessions"
        begun = server.http.post(root, json=OBSERVATION).raise_for_status().json()
        last = OBSERVATION | {"reward": returns, "step_type": 2}
        versions.add(server.http.post(f"{root}/{begun['id']}/action", json=last).raise_for_status().json()["version"])
    return versions


def test_canary_is_tried_seen_and_stopped(
    open_page: OpenPage, console_server: RunningServer, trainers: "dict[str, Trainer]"
) -> None:
    admin = console_server.admin
    name = trainers["pilot"].publish(300)
    for checkpoint in (name, "export"):
        admin.post("/admin/policies/pilot/reload", json={"checkpoint": checkpoint}).raise_for_status()
    page = open_page("#/policies/pilot").page
    page.get_by_role("button", name=f"Try {name}").click()
    page.get_by_label("Share, %").fill("50")
    page.get_by_label("Stop if its return drops by, %").fill("10")
    page.get_by_role("button", name="Try it").click()
    give_token(page, console_server.admin_token)
    traffic = page.locator(".card.traffic")
    expect(traffic).to_contain_text(f"{name} gets 50 % of the sessions that begin")
    expect(traffic).to_contain_text("refused once its mean return is lower by more than 10 %")
    assert play(console_server, "pilot", 24, 12.5) == {"export", name}
    for arm in ("active", "canary"):
        expect(traffic.locator(f".arm-{arm} .return")).to_contain_text("12.5")
        expect(traffic.locator(f".arm-{arm} .interval rect")).to_be_visible()
    traffic.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".actions .notice")).to_contain_text("Nothing is tried beside the active version any more")
    expect(traffic.locator(".decision")).to_contain_text(f"{name} was stopped")
    expect(page.locator(".version", has_text=name).locator(".chip")).to_have_text("refused")
    assert play(console_server, "pilot", 4, 1.0) == {"export"}
    admin.post("/admin/policies/pilot/reload", json={}).raise_for_status()


def figures(version: str, mean: float, stderr: float, **more: Any) -> dict[str, Any]:
    counts = {"sessions": 120, "episodes": 40, "answers": 9000, "failures": 0, "p50_ms": 0.2, "p99_ms": 1.5}
    return {"version": version, "train_step": 7, "mean_return": mean, "stderr": stderr, **counts, **more}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_arms_the_shadow_and_the_decision_are_shown(open_page: OpenPage, axe_script: str, scheme: str) -> None:
    wish = {"share": 0.1, "began_at": time.time() - 60}
    policy = ready(7)
    policy["traffic"] = {
        "active": figures("0000000700", 412.25, 8.0),
        "canary": figures("0000000800", 371.0, 12.125, promote_after_episodes=200, **wish),
        "shadow": {"version": "0000000900", "train_step": 900, "compared": 5000, "agreement": 0.9812, "skipped": 12}
        | {"max_difference": 1, "mean_kl": 0.0125, **wish},
        "decision": {"action": "promote", "version": "0000000700", "reason": "200 episodes ended", "at": time.time()},
    }
    size = {"width": 360, "height": 740} if scheme == "dark" else {"width": 1280, "height": 800}
    page = open_page("#/policies/arm", fed=state({"arm": policy}), color_scheme=scheme, viewport=size).page
    traffic = page.locator(".card.traffic")
    expect(traffic.locator(".arm-canary .return")).to_contain_text("371 ± 12")
    marks = [traffic.locator(f".arm-{arm} .interval rect").get_attribute("x") for arm in ("active", "canary")]
    assert float(marks[0] or 0) > float(marks[1] or 0)
    expect(traffic.locator("progress")).to_have_attribute("value", "40")
    for text in ("98.1 %", "0.0125", "5,000", "0000000700 was promoted", "200 episodes ended"):
        expect(traffic).to_contain_text(text)
    for name in ("Promote", "Stop", "Stop the shadow"):
        expect(traffic.get_by_role("button", name=name, exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page, axe_script) == []
