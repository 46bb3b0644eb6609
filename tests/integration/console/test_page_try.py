"""The console's try-it form in a browser: what it sends, and what it draws, beside the JSON routes' own answers."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.integration.console.conftest import OpenPage
from tests.support.browser import PATIENCE_MS
from tests.support.server import RunningServer
from tests.support.steady import until

expect.set_options(timeout=PATIENCE_MS)
ASK = "Ask for an action"


@dataclass(frozen=True)
class Asked:
    """What the page sent, where to, and what it was answered."""

    path: str
    sent: dict[str, Any]
    got: dict[str, Any]


def ask(page: Page, button: str = ASK, route: str = "action") -> Asked:
    """Presses the button, and waits until the answer is shown."""
    with page.expect_response(f"**/{route}") as found:
        page.get_by_role("button", name=button, exact=True).click()
    request, got = found.value.request, found.value.json()
    shown = page.locator("output.action")
    until(lambda: json.loads(shown.get_attribute("data-action") or "") == got["action"], "the answer on the page")
    return Asked(request.url, request.post_data_json, got)


def fill(page: Page, label: str, value: object) -> None:
    page.get_by_label(label, exact=True).fill(str(value))


@pytest.fixture
def page(open_page: OpenPage, policy: str) -> Page:
    """At the policy that is tried."""
    found: Page = open_page(f"#/policies/{policy}").page
    return found


on = pytest.mark.parametrize


@on("policy", ["cartpole"])
def test_flat_observation_is_answered_as_by_json(page: Page, console_server: RunningServer, policy: str) -> None:
    for index, value in enumerate((1.5, -2, 0.25, 3)):
        fill(page, f"observation[{index}]", value)
    page.get_by_label("Mode", exact=True).select_option("sample")
    fill(page, "Seed", 7)
    page.get_by_label("Log-probability").check()
    asked = ask(page)
    assert asked.sent == {
        "observation": [1.5, -2, 0.25, 3],
        "options": {"mode": "sample", "seed": 7, "log_prob": True},
    }
    direct = console_server.http.post(asked.path, json=asked.sent).json()
    assert direct == asked.got
    plain = {"observation": asked.sent["observation"]}
    probs = console_server.http.post(f"/v1/policies/{policy}/distribution", json=plain).json()["distribution"][
        "parameters"
    ]["probs"]
    expect(page.locator(".bar-value")).to_have_text([f"{100 * prob:.1f} %" for prob in probs])
    expect(page.locator(".bars .chosen .bar-label")).to_have_text(f"{direct['action']} (the action)")
    assert ask(page, "Again with seed").got["action"] == direct["action"]
    expect(page.locator(".answer .notice")).to_have_text("The same action as before.")


@on("policy", ["cartpole"])
def test_time_step_is_left_to_the_server_unless_it_is_filled_in(page: Page, policy: str) -> None:
    assert set(ask(page).sent) == {"observation"}
    page.get_by_text("Step type, reward, discount").click()
    page.get_by_label("step_type").select_option("LAST")
    fill(page, "reward", -0.5)
    sent = ask(page).sent
    assert sent["step_type"] == 2
    assert sent["reward"] == -0.5
    assert "discount" not in sent


@on("policy", ["cartpole"])
def test_slider_and_number_are_one_value(page: Page, policy: str) -> None:
    slider = page.get_by_label("observation[2], slider")
    assert [float(slider.get_attribute(end) or 0) for end in ("min", "max")] == pytest.approx([-0.42, 0.42])
    slider.evaluate("node => { node.value = '0.21'; node.dispatchEvent(new Event('input')); }")
    expect(page.get_by_label("observation[2]", exact=True)).to_have_value("0.21")
    fill(page, "observation[2]", -0.1)
    assert abs(float(slider.input_value()) + 0.1) < 0.005


@on("policy", ["cartpole"])
def test_curl_gives_the_same_answer(page: Page, policy: str) -> None:
    page.get_by_role("button", name="Random").click()
    fill(page, "Seed", 3)
    asked = ask(page)
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => (window.copied = text); }")
    page.get_by_role("button", name="Copy as curl").click()
    command = page.evaluate("window.copied")
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == asked.got


@on("policy", ["cartpole"])
def test_what_is_no_number_is_said_beside_the_form(page: Page, policy: str) -> None:
    fill(page, "observation[1]", "")
    page.get_by_role("button", name=ASK).click()
    expect(page.locator(".answer [role=alert]")).to_have_text("observation[1]: a number is needed")
    expect(page.get_by_label("observation[1]", exact=True)).to_be_focused()


@on("policy", ["arm"])
def test_nested_observation_is_answered_as_by_json(page: Page, console_server: RunningServer, policy: str) -> None:
    for index in range(3):
        fill(page, f"joints[{index}]", index - 0.5)
    page.get_by_role("radiogroup", name="closed").get_by_role("radio", name="1").check()
    fill(page, "force", 2.5)
    fill(page, "target[0][1]", 4)
    fill(page, "target[1]", 6)
    page.get_by_label("Mode", exact=True).select_option("greedy")
    asked = ask(page)
    assert asked.sent["observation"] == {
        "joints": [-0.5, 0.5, 1.5],
        "gripper": {"closed": 1, "force": 2.5},
        "target": [[0, 4], 6],
    }
    assert console_server.http.post(asked.path, json=asked.sent).json() == asked.got
    expect(page.locator(".density")).to_have_count(3)
    for loc, drawn in zip(asked.got["action"], page.locator(".density figcaption strong").all(), strict=True):
        assert abs(float(drawn.inner_text()) - loc) <= 1e-3 * abs(loc)


@on("policy", ["rover"])
def test_picture_from_a_file_is_sent_as_its_pixels(
    page: Page, console_server: RunningServer, tmp_path: Path, policy: str
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (24, 32, 3), np.uint8)
    file = tmp_path / "camera.png"
    Image.fromarray(pixels).save(file)
    page.get_by_label("From a file").set_input_files(file)
    expect(page.locator(".image")).to_contain_text("32 × 24, drawn as 32 × 24")
    fill(page, "speed", 1.5)
    page.get_by_label("Mode", exact=True).select_option("greedy")
    asked = ask(page)
    assert asked.sent["observation"]["camera"] == pixels.tolist()
    assert console_server.http.post(asked.path, json=asked.sent).json() == asked.got
    expect(page.locator(".bars li")).to_have_count(5)


@on("policy", ["rover"])
def test_picture_of_another_size_is_drawn_into_the_spec(page: Page, tmp_path: Path, policy: str) -> None:
    file = tmp_path / "large.png"
    Image.new("RGB", (320, 100), (200, 100, 50)).save(file)
    page.get_by_label("From a file").set_input_files(file)
    expect(page.locator(".image")).to_contain_text("320 × 100, drawn as 32 × 24")
    assert np.allclose(ask(page).sent["observation"]["camera"], np.full((24, 32, 3), [200, 100, 50]), atol=1)
    page.get_by_role("button", name="Noise").click()
    assert len(np.unique(ask(page).sent["observation"]["camera"])) > 200


@on("policy", ["pilot"])
def test_recurrent_policy_is_stepped_in_a_session(page: Page, console_server: RunningServer, policy: str) -> None:
    page.get_by_label("Mode", exact=True).select_option("greedy")
    first = ask(page, route="sessions")
    fill(page, "observation[0]", 2)
    second = ask(page, "Ask for the next step")
    fill(page, "observation[0]", -3)
    third = ask(page, "Ask for the next step")
    assert third.sent["step"] == 2
    http = console_server.http
    path = f"/v1/policies/{policy}/sessions"
    own = http.post(path, json=first.sent).json()
    for asked in (second, third):
        answer = http.post(f"{path}/{own['id']}/action", json=asked.sent).json()
        assert answer["action"] == asked.got["action"]
    http.delete(f"{path}/{own['id']}").raise_for_status()
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_role("button", name=ASK)).to_be_visible()
    assert http.get(f"{path}/{first.got['id']}").status_code == 404


@on("policy", ["pilot"])
def test_state_is_carried_from_step_to_step(page: Page, console_server: RunningServer, policy: str) -> None:
    page.get_by_role("radio", name="sent along").check()
    page.get_by_label("Mode", exact=True).select_option("greedy")
    first = ask(page)
    fill(page, "observation[0]", 2)
    second = ask(page, "Ask for the next step")
    assert "policy_state" not in first.sent
    assert second.sent["policy_state"] == first.got["policy_state"]
    assert console_server.http.post(second.path, json=second.sent).json() == second.got
    expect(page.locator(".bars li")).to_have_count(5)
