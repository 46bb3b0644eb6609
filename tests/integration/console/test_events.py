"""The console's stream over a real server: what happens is on it within a second, for every page."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.console_client import Stream
from tests.support.policies import NumberTrainer
from tests.support.server import ADMIN_TOKEN, RunningServer, serving
from tests.support.steady import SteadyLoad, until


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return NumberTrainer(tmp_path_factory.mktemp("console") / "p")


@pytest.fixture(scope="module")
def server(trainer: NumberTrainer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two workers; one of the policies cannot be opened."""
    broken = tmp_path_factory.mktemp("broken")
    with serving({"p": trainer.folder, "broken": broken}, "--workers", "2") as running:
        yield running


def test_a_page_learns_all_there_is_at_once(server: RunningServer) -> None:
    with Stream(server.url) as page:
        page.until(lambda state: state["server"]["pages"] == 1, "the page itself")
        first = page.events[0]
        state = page.state
    assert (first.kind, page.retry) == ("state", "1000")
    assert state["server"]["policies"] == ["p", "broken"]
    assert (state["server"]["workers"], state["server"]["workers_wanted"]) == (2, 2)
    assert state["server"]["admin"] is True
    assert "sessions" not in state["server"]  # two workers have no place for them in common
    assert state["server"]["memory_bytes"] > 50 * 2**20
    assert abs(state["server"]["now"] - time.time()) < 60
    policy = state["policies"]["p"]
    assert {name: policy[name] for name in ("ready", "version", "engine")} == {
        "ready": True,
        "version": "export",
        "engine": policy["versions"][0]["engine"],
    }
    assert state["policies"]["broken"]["ready"] is False
    assert "broken" in state["policies"]["broken"]["reason"]
    (swap,) = state["swaps"].values()
    assert (swap["policy"], swap["version"], swap["state"]) == ("p", "export", "done")
    assert "fleet" not in state


def late_s(page: Stream, server: RunningServer, name: str) -> float:
    """How long after the swap to a version the page had it, in seconds."""
    page.until(lambda state: any(swap["version"] == name for swap in state["swaps"].values()), "the swap")
    seen = page.until(lambda state: state["policies"]["p"]["version"] == name, "the version")
    until(lambda: server.http.get("/v1/policies/p").json()["version"] == name)
    page.until(lambda state: _swap(state, name)["state"] == "done", "its end")
    swap = _swap(page.state, name)
    return float(seen - swap["began_at"] - sum(swap["stages"][stage] for stage in ("loaded", "verified", "active")))


def test_a_live_swap_is_seen_within_a_second_with_its_stages(server: RunningServer, trainer: NumberTrainer) -> None:
    with Stream(server.url) as page, Stream(server.url) as other:
        page.until(lambda state: True)
        other.until(lambda state: True)
        for step in range(100, 105):
            name = trainer.publish(step)
            late = late_s(page, server, name)
            other.until(lambda state, name=name: state["policies"]["p"]["version"] == name)
            if late < 1.0:
                break  # the machine may be held up now and then, for longer than that
        swap = _swap(page.state, name)
    versions = server.admin.get("/admin/policies/p/versions").json()["versions"]
    (row,) = [version for version in page.state["policies"]["p"]["versions"] if version["version"] == name]
    assert row == {key: value for key, value in versions[0].items() if value != ""} | {"digest": row["digest"]}
    assert versions[0]["digest"].startswith(row["digest"])
    stages = swap["stages"]
    assert set(stages) == {"loaded", "verified", "active", "drained"}
    assert late < 1.0
    assert swap["previous"] == ("export" if step == 100 else f"{step - 1:010d}")
    assert swap["took_s"] == pytest.approx(sum(stages.values()), abs=0.05)
    states = [event.data["swaps"] for event in page.events if event.kind == "patch" and "swaps" in event.data]
    assert states, "it was seen while it went on"


def _swap(state: dict, version: str) -> dict:
    return [swap for swap in state["swaps"].values() if swap["version"] == version][-1]


def test_what_all_workers_answer_is_added_up(server: RunningServer, trainer: NumberTrainer) -> None:
    name = server.http.get("/v1/policies/p").json()["version"]
    step = server.http.get("/v1/policies/p").json()["train_step"]
    with Stream(server.url) as page, SteadyLoad(server.url, "p", {name: step}, clients=6) as load:
        before, began = load.answers.total(), time.monotonic()
        load.more(1000)
        asked_per_s = (load.answers.total() - before) / (time.monotonic() - began)
        page.until(lambda state: state["rates"].get("p", {}).get("answers_per_s", 0) > asked_per_s / 2, "the rate")
        rates = page.state["rates"]["p"]
        assert 0 < rates["p50_ms"] <= rates["p99_ms"] < 60_000
        assert "errors_per_s" not in rates
        server.http.post("/v1/policies/p/action", content=b"no JSON")
        page.until(lambda state: state["rates"]["p"].get("errors_per_s"), "the error")
        assert not load.new_failures()
    with Stream(server.url) as page:
        page.until(lambda state: state["rates"] == {}, "quiet")


def test_a_pause_a_pin_and_the_call_that_made_them_are_shown(server: RunningServer, trainer: NumberTrainer) -> None:
    with Stream(server.url) as page:
        page.until(lambda state: True)
        server.admin.post("/admin/policies/p/pause", json={"mode": "reject"}).raise_for_status()
        page.until(lambda state: state["policies"]["p"].get("paused") == "reject", "the pause")
        page.until(lambda state: state["audit"] and "pause" in state["audit"][0]["call"], "the call")
        call = page.state["audit"][0]
        assert (call["call"], call["status"]) == ("POST /admin/policies/p/pause", 200)
        assert set(call) == {"at", "call", "status", "took_ms"}  # no address
        server.admin.post("/admin/policies/p/resume").raise_for_status()
        page.until(lambda state: "paused" not in state["policies"]["p"], "the end of the pause")
        server.reload("p", checkpoint="export").raise_for_status()
        page.until(lambda state: state["policies"]["p"].get("pinned") == "export", "the pin")
        server.reload("p").raise_for_status()
        page.until(lambda state: "pinned" not in state["policies"]["p"], "the end of the pin")


def test_a_refused_checkpoint_is_shown_with_its_reason(server: RunningServer, trainer: NumberTrainer) -> None:
    with Stream(server.url) as page:
        page.until(lambda state: True)
        before = page.state["policies"]["p"]["version"]
        bad = trainer.folder / "checkpoints" / "bad"
        trainer.publish(200, "bad", bad.parent.parent / "beside")
        (bad.parent.parent / "beside" / "bad").rename(bad)
        page.until(lambda state: state["policies"]["p"]["version"] == "bad")
        data = next((bad / "variables").glob("variables.data*"))
        trainer.publish(300, "worse", bad.parent.parent / "beside")
        worse = bad.parent.parent / "beside" / "worse"
        (data,) = (worse / "variables").glob("variables.data*")
        data.write_bytes(bytes(data.stat().st_size))
        worse.rename(bad.parent / "worse")
        page.until(lambda state: any(v["state"] == "refused" for v in state["policies"]["p"]["versions"]), "refused")
        (row,) = [v for v in page.state["policies"]["p"]["versions"] if v["state"] == "refused"]
        assert (row["version"], page.state["policies"]["p"]["version"]) == ("worse", "bad")
        assert row["reason"]
    assert before != "bad"


def test_a_worker_that_is_killed_ends_its_streams_alone_and_is_replaced(server: RunningServer) -> None:
    pages = [Stream(server.url) for _ in range(8)]
    for page in pages:
        page.__enter__()
        page.until(lambda state: state["server"]["workers"] == 2)
    killed = server.processes("app.worker")[0]
    os.kill(killed, signal.SIGKILL)
    try:
        until(lambda: any(page.ended for page in pages) or len(server.processes("app.worker")) == 2)
        until(lambda: killed not in server.processes("app.worker"))
        with Stream(server.url) as page:
            page.until(lambda state: state["server"]["restarts"] >= 1, "the restart")
            page.until(lambda state: state["server"]["workers"] == 2, "the new worker")
        alive = [page for page in pages if not page.ended]
        for page in alive:
            page.until(lambda state: state["server"]["restarts"] >= 1, "the restart")
    finally:
        for page in pages:
            page.__exit__()


def test_streams_end_at_once_when_the_server_stops(trainer: NumberTrainer, warm: tuple[str, str]) -> None:
    with serving({"p": trainer.folder}, *warm, prepared=True, POLICY_SERVER_DATA_TOKEN="data") as server:
        refused = server.http.get("/console/events")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.headers["content-type"] == "application/problem+json"
        wrong = server.http.get("/console/events", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        assert wrong.status_code == 401
        with Stream(server.url, "data") as page, Stream(server.url, "data") as other:
            page.until(lambda state: state["server"]["pages"] == 2)
            assert page.state["server"]["sessions"] == 0
            other.until(lambda state: True)
            began = time.monotonic()
            assert server.stop() == 0
            took_s = time.monotonic() - began
            assert (page.until_ended(), other.until_ended()) == ("the end", "the end")
            assert [page.events[-1].kind, other.events[-1].kind] == ["stop", "stop"]
    assert took_s < 30  # of a busy machine; the pages alone would stay for ever
