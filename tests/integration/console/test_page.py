"""The console's page in a browser, beside a real server: what it shows, and what an operator does with it."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.integration.console.conftest import OpenPage
from tests.support.browser import PATIENCE_MS, violations
from tests.support.console_page import give_token, wait_for_stream
from tests.support.console_stream import feed, ready, state
from tests.support.relay import Relays
from tests.support.server import RunningServer

if TYPE_CHECKING:
    from tests.support.console_policies import Trainer

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(autouse=True)
def resumed(console_server: RunningServer) -> Iterator[None]:
    yield
    for name in ("cartpole", "arm"):
        console_server.admin.post(f"/admin/policies/{name}/resume").raise_for_status()


def serves(page: Page) -> Locator:
    """The version among the facts about a policy."""
    return page.locator(".tile", has_text="Version").locator("dd")


def visit(page: Page, policy: str) -> None:
    page.evaluate(f"location.hash = '#/policies/{policy}'")
    expect(page.get_by_role("heading", level=1)).to_have_text(policy)


def is_wider_than_the_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_list_shows_what_serves(open_page: OpenPage, console_server: RunningServer) -> None:
    page = open_page().page
    listed = console_server.http.get("/v1/policies").json()["policies"]
    rows = page.locator("table.policies tbody tr")
    expect(rows).to_have_count(len(listed))
    for row, policy in zip(rows.all(), listed, strict=True):
        for text in (policy["name"], policy["version"], policy["engine"], "active"):
            expect(row).to_contain_text(text)
    expect(page.locator("#header")).to_contain_text(console_server.url.removeprefix("http://"))
    expect(page).to_have_title("Policy server")


def test_link_leads_to_a_policy_and_back(open_page: OpenPage) -> None:
    page = open_page().page
    page.get_by_role("rowheader").get_by_role("link", name="rover").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("rover")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.get_by_role("link", name="All policies").click()
    expect(page.locator("table.policies")).to_be_visible()


def test_requests_appear_as_answers_a_second(open_page: OpenPage, console_server: RunningServer) -> None:
    page = open_page("#/policies/cartpole").page
    rate = page.locator(".tile", has_text="Answers/s").locator("dd")
    expect(rate).to_have_text("0")
    while rate.inner_text() == "0":
        console_server.http.post("/action", json={"observation": [0, 0, 0, 0]}).raise_for_status()
    expect(page.locator(".chart path.line.answers")).to_have_attribute("d", re.compile("M.*L"))


def test_live_swap_is_seen_within_a_second(
    open_page: OpenPage, console_server: RunningServer, trainers: "dict[str, Trainer]"
) -> None:
    page = open_page("#/policies/cartpole").page
    wait_for_stream(page)
    page.evaluate(
        """() => {
            const tiles = [...document.querySelectorAll(".tile")];
            const version = tiles.find((tile) => tile.textContent.startsWith("Version"));
            const note = () => (window.seenAt = Date.now() / 1000);
            new MutationObserver(note).observe(version, {subtree: true, characterData: true});
        }"""
    )
    for step in range(100, 105):
        name = trainers["cartpole"].publish(step)
        expect(serves(page)).to_have_text(name)
        late_s = page.evaluate("window.seenAt") - activated_at(page)
        if late_s < 1:
            break  # the machine may be held up now and then, for longer than that
    status = console_server.admin.get("/admin/policies/cartpole/versions").json()
    assert status["versions"][0]["version"] == name
    swap = page.locator(".swap", has_text=name)
    expect(swap.locator(".stage-bar")).to_have_attribute("aria-label", re.compile("loaded .*verified .*active "))
    expect(page.locator("#announcer")).to_contain_text(f"version {name} serves")
    assert late_s < 1


def activated_at(page: Page) -> float:
    """When the workers had switched to what serves, by the stream that the page gets."""
    return float(
        page.evaluate(
            """async () => {
                const reader = (await fetch("console/events")).body.pipeThrough(new TextDecoderStream()).getReader();
                let text = "";
                while (!/event: state\\ndata: .*\\n\\n/.test(text)) text += (await reader.read()).value;
                reader.cancel();
                const found = JSON.parse(/event: state\\ndata: (.*)\\n\\n/.exec(text)[1]);
                const swap = Object.values(found.swaps).filter((one) => one.policy === "cartpole").at(-1);
                const { loaded, verified, active } = swap.stages;
                return swap.began_at + loaded + verified + active;
            }"""
        )
    )


def test_refused_checkpoint_is_shown_with_its_reason(open_page: OpenPage, trainers: "dict[str, Trainer]") -> None:
    page = open_page("#/policies/cartpole").page
    name = trainers["cartpole"].publish_broken(150)
    version = page.locator(".version", has_text=name)
    expect(version.locator(".state-refused")).to_have_text("refused")
    expect(version.locator(".reason")).to_contain_text("finite")


def test_reload_roll_back_pause_and_resume_with_the_token(
    open_page: OpenPage, console_server: RunningServer, trainers: "dict[str, Trainer]"
) -> None:
    page = open_page("#/policies/arm").page
    name = trainers["arm"].publish(100)
    expect(serves(page)).to_have_text(name)
    page.get_by_role("button", name="Serve export").click()
    give_token(page, console_server.admin_token)
    expect(page.locator(".actions .notice")).to_contain_text(f"export serves, in the place of {name}")
    expect(serves(page)).to_have_text("export")
    expect(page.locator(".title")).to_contain_text("pinned to export")
    page.get_by_role("button", name="Reload newest").click()
    expect(serves(page)).to_have_text(name)
    page.get_by_role("button", name="Roll back").click()
    expect(serves(page)).to_have_text("export")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("radio", name="Refuse requests").check()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator(".title")).to_contain_text("requests are refused")
    observation = {"joints": [0, 0, 0], "gripper": {"closed": 0, "force": 0}, "target": [[0, 0], 0]}
    asked = {"observation": observation}
    assert console_server.http.post("/v1/policies/arm/action", json=asked).status_code == 503
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".title .chip").first).to_have_text("active")
    assert console_server.http.post("/v1/policies/arm/action", json=asked).status_code == 200
    page.get_by_role("button", name="Reload newest").click()
    expect(serves(page)).to_have_text(name)
    expect(page.locator(".card", has_text="Admin calls")).to_contain_text("POST arm/resume")


def test_wrong_token_is_refused_and_nothing_changes(open_page: OpenPage, console_server: RunningServer) -> None:
    watched = open_page("#/policies/arm")
    watched.allow()
    page = watched.page
    before = console_server.http.get("/v1/policies/arm").json()["version"]
    page.get_by_role("button", name="Roll back").click()
    give_token(page, "no such token")
    expect(page.locator("dialog [role=alert]")).to_contain_text("does not accept this token; nothing has changed")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".actions .notice")).to_contain_text("nothing has changed")
    assert console_server.http.get("/v1/policies/arm").json()["version"] == before


def test_page_comes_back_with_the_server(
    open_page: OpenPage, console_server: RunningServer, trainers: "dict[str, Trainer]"
) -> None:
    with Relays.running() as relays:
        relay = relays.before(console_server.port)
        watched = open_page("#/policies/rover", url=f"http://127.0.0.1:{relay.port}")
        watched.allow()
        page = watched.page
        wait_for_stream(page)
        relay.cut()
        expect(page.locator(".banner")).to_contain_text(re.compile(r"No connection since \d\d:\d\d:\d\d"))
        expect(page.get_by_role("heading", level=1)).to_have_text("rover")
        name = trainers["rover"].publish(100)
        relay.mend()
        wait_for_stream(page)
        expect(page.locator(".banner")).to_have_count(0)
        expect(serves(page)).to_have_text(name)


def test_keyboard_alone_asks_and_gives_up_a_dialog(open_page: OpenPage) -> None:
    page = open_page().page
    wait_for_stream(page)
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press("Enter")
    expect(page.locator("main")).to_be_focused()
    tab_to(page, page.get_by_role("rowheader").get_by_role("link", name="cartpole"))
    press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("cartpole")
    tab_to(page, page.get_by_role("button", name="Reload newest"))
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press("Enter")
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Reload newest")).to_be_focused()
    expect(page.get_by_label("observation[0]", exact=True)).to_be_visible()
    tab_to(page, page.get_by_label("observation[0], slider"))
    press("ArrowRight")
    expect(page.get_by_label("observation[0]", exact=True)).not_to_have_value("0")
    press("Tab")
    press("Enter")
    expect(page.locator("output.action")).to_be_visible()


def tab_to(page: Page, wanted: Locator) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"{wanted} cannot be reached by Tab")


def test_phone_needs_no_scrolling_sideways(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True).page
    wait_for_stream(page)
    expect(page.locator("table.policies")).to_be_visible()
    assert not is_wider_than_the_window(page)
    for name in ("arm", "rover", "pilot"):
        visit(page, name)
        page.get_by_role("button", name="Ask for an action").click()
        expect(page.locator("output.action")).to_be_visible()
        assert not is_wider_than_the_window(page), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_use_each_view(open_page: OpenPage, axe_script: str, scheme: str) -> None:
    page = open_page(color_scheme=scheme).page
    wait_for_stream(page)
    expect(page.locator("table.policies")).to_be_visible()
    brightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, one) => sum + Number(one), 0)"
    )
    assert (page.evaluate(brightness) < 200) is (scheme == "dark")
    assert violations(page, axe_script) == []
    for name in ("arm", "rover", "pilot"):
        visit(page, name)
        page.get_by_role("button", name="Ask for an action").click()
        expect(page.locator("output.action")).to_be_visible()
        assert violations(page, axe_script) == [], name
    page.get_by_role("button", name="Pause").click()
    assert violations(page, axe_script) == []


def test_200_policies_and_10000_sessions_are_found_and_sorted(open_page: OpenPage, axe_script: str) -> None:
    policies = {f"agent-{number:03d}": ready(number) for number in range(200)}
    policies["agent-044"] = {"ready": False, "reason": "/policies/agent-044: no saved_model.pb"}
    policies["agent-050"]["paused"] = "wait"
    rates = {"agent-007": {"answers_per_s": 9000.0, "p50_ms": 0.2, "p99_ms": 1.0}}
    steps = {"p50": 12, "p90": 180, "max": 500}
    spread = {"steps": steps, "idle_s": {"p50": 0.4, "p90": 31.0, "max": 580.0}}
    page = open_page(fed={**state(policies, sessions=10_000, sessions_spread=spread), "rates": rates}).page
    rows = page.locator("table.policies tbody tr")
    expect(rows).to_have_count(200)
    expect(page.locator(".tile", has_text="Sessions")).to_contain_text("10,000")
    expect(page.locator(".spread .fact").first).to_have_text("half up to 12, nine in ten up to 180, at most 500")
    expect(page.locator(".spread .fact").last).to_have_text("half up to 0 s, nine in ten up to 31 s, at most 9 min")
    expect(page.locator(".tile.bad", has_text="Policies ready")).to_contain_text("199 of 200")
    assert violations(page, axe_script) == []
    page.get_by_role("button", name="Answers/s").click()
    expect(rows.first).to_contain_text("agent-007")
    page.keyboard.press("/")
    page.keyboard.type("failed")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("no saved_model.pb")
    page.get_by_label("Search policies").fill("agent-05 paused")
    expect(rows).to_have_count(1)
    page.get_by_label("Search policies").fill("no such policy")
    expect(page.get_by_text("No policy matches")).to_be_visible()


def test_200_policies_are_drawn_without_a_pause(open_page: OpenPage) -> None:
    policies = {f"agent-{number:03d}": ready(number) for number in range(200)}
    page = open_page(fed=state(policies)).page
    expect(page.locator("table.policies tbody tr")).to_have_count(200)
    took_ms = page.evaluate(
        """async () => {
            const { model, changed } = await import("./console/state/model.js");
            const draws = [];
            for (let turn = 0; turn < 9; turn += 1) {
                const rates = {};
                for (const name of model.state.server.policies) rates[name] = { answers_per_s: turn, p50_ms: turn };
                model.state = { ...model.state, rates };
                const before = performance.now();
                changed();
                await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)));
                draws.push(performance.now() - before);
            }
            return draws.sort((one, other) => one - other)[0];
        }"""
    )
    assert took_ms < 250


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_first_visit_says_what_to_do(open_page: OpenPage, axe_script: str, scheme: str) -> None:
    page = open_page(fed=state({}), color_scheme=scheme).page
    expect(page.get_by_role("heading", name="No policy yet")).to_be_visible()
    expect(page.locator("main")).to_contain_text("policy-server serve")
    assert violations(page, axe_script) == []
    feed(page, state({"arm": {"ready": False, "reason": "/policies/arm: no saved_model.pb"}}))
    page.reload()
    expect(page.get_by_role("heading", name="No policy serves yet")).to_be_visible()
    expect(page.locator(".reasons")).to_contain_text("no saved_model.pb")
    assert violations(page, axe_script) == []


def test_all_states_of_a_version_have_a_word_an_icon_and_a_colour(open_page: OpenPage, axe_script: str) -> None:
    words = ("found", "loaded", "verified", "active", "draining", "released", "refused")
    policy = ready(7)
    one = policy["versions"][0]
    policy["versions"] = [{**one, "version": f"v-{word}", "state": word} for word in words]
    for scheme in ("light", "dark"):
        fed = state({"arm": policy, "leg": {"ready": False, "reason": "no saved_model.pb"}})
        page = open_page("#/policies/leg", fed=fed, color_scheme=scheme).page
        failed = look(page.locator(".title .chip"))
        visit(page, "arm")
        chips = page.locator(".version .chip")
        expect(chips).to_have_text(list(words))
        looks = {failed, *(look(chip) for chip in chips.all())}
        assert len(looks) == 8
        assert violations(page, axe_script) == []


def look(chip: Locator) -> str:
    return str(
        chip.evaluate(
            "chip => { const {color, backgroundColor} = getComputedStyle(chip);"
            " return [color, backgroundColor, chip.querySelector('path').getAttribute('d')].join(); }"
        )
    )


def test_uptime_goes_on_by_the_servers_clock(open_page: OpenPage) -> None:
    page = open_page(fed=state({"arm": ready(1)}, now=5_000_000.0, started_at=5_000_000.0 - 7 * 3600)).page
    expect(page.locator("#header")).to_contain_text("up 7 h 0 min")
