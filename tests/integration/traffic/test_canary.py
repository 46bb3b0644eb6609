"""A canary on a real server: who gets it, what its returns lead to, and what becomes of its sessions when it fails.

With sessions in memory, and in Redis behind two workers.
"""

import contextlib
import itertools
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.traffic.assignment import CANARY, arm_of
from tests.integration.sessions.test_sessions import server_of
from tests.support.canaries import CRASHES, OVERFLOWS, FragilePolicy, Operator, Simulators
from tests.support.policies import NumberTrainer
from tests.support.redis_server import redis_running
from tests.support.server import RunningServer, serving
from tests.support.steady import until

# The last two fail where the observation is CRASHES, and OVERFLOWS.
ACTIVE, EQUAL, WORSE, BETTER, CRASHING, OVERFLOWING = VERSIONS = "v1", "v2", "v3", "v4", "v200", "v120"
IDS = (f"canary-{number}" for number in itertools.count())
GAINS = {1: 100.0, 2: 100.0, 3: 80.0, 4: 120.0}


# What does not depend on where sessions are kept.
ONLY_MEMORY = pytest.mark.parametrize("started", ["memory"], indirect=True)


def trainer_in(folder: Path) -> NumberTrainer:
    trainer = NumberTrainer(folder, kind_of_policy=FragilePolicy)
    for name in VERSIONS:
        trainer.publish(int(name[1:]), name)
    return trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> NumberTrainer:
    return trainer_in(tmp_path_factory.mktemp("canary") / "p")


@pytest.fixture(scope="module", params=["memory", pytest.param("redis", marks=pytest.mark.only_full)])
def started(request: pytest.FixtureRequest, trainer: NumberTrainer) -> Iterator[RunningServer]:
    with server_of(request.param, {"p": trainer.folder}, prepared=True) as running:
        yield running


@pytest.fixture
def server(started: RunningServer) -> RunningServer:
    """The first version serves, is pinned, and nothing is tried beside it."""
    started.reload("p", checkpoint=ACTIVE).raise_for_status()
    return started


@pytest.fixture
def operator(server: RunningServer) -> Operator:
    return Operator(server)


@pytest.fixture
def simulators(server: RunningServer) -> Simulators:
    return Simulators(server, lambda number: GAINS.get(number, 100.0), ids=IDS)


def arms(simulators: Simulators, digest: str, share: float) -> dict[str, set[str]]:
    """The versions that each session should have been answered by, by its id."""
    return {id_: {EQUAL if arm_of(id_, digest, share) == CANARY else ACTIVE} for id_ in simulators.versions}


def test_the_canary_gets_its_share_and_no_session_changes_its_arm(
    server: RunningServer, operator: Operator, simulators: Simulators, trainer: NumberTrainer, full: bool
) -> None:
    """Whatever is sent again, published, or changed meanwhile; a session that began before stays as well."""
    early, _ = simulators.begin()
    operator.put(canary={"checkpoint": EQUAL, "share": 0.1})
    digest = operator.version(EQUAL)["digest"]
    began = [simulators.begin()[0] for _ in range(10_000 if full else 400)]
    shared = arms(simulators, digest, 0.1) | {early: {ACTIVE}}
    assert sum(versions == {EQUAL} for versions in shared.values()) == pytest.approx(
        len(began) / 10, abs=4 * math.sqrt(len(began) * 0.1 * 0.9)
    )
    for id_ in began[:100]:
        simulators.step(id_, step=1, reward=1.0)
    operator.put(canary={"checkpoint": EQUAL, "share": 0.9})
    trainer.publish(9, "v9")
    for id_ in (early, *began[:200]):
        simulators.step(id_, run_id="r")
    for id_ in began[:100]:
        answer = simulators.step(id_, step=2, reward=1.0)  # again
        assert answer["step"] == 2
    late = [simulators.begin()[0] for _ in range(50)]
    found = {id_: set(versions) for id_, versions in simulators.versions.items()}
    assert {id_: found[id_] for id_ in (early, *began)} == shared
    assert {id_: found[id_] for id_ in late} == {
        id_: versions for id_, versions in arms(simulators, digest, 0.9).items() if id_ in late
    }
    report = operator.report()
    assert report["canary"]["sessions"] + report["active"]["sessions"] == len(began) + len(late)
    assert report["canary"]["answers"] == sum(v.count(EQUAL) for v in simulators.versions.values()) - sum(
        EQUAL in simulators.versions[id_] for id_ in began[:100]
    )  # what is sent again gets the answer that is kept
    shutil.rmtree(trainer.folder / "checkpoints" / "v9")


@pytest.mark.parametrize(
    ("name", "action", "active"), [(WORSE, "stop", ACTIVE), (EQUAL, "promote", EQUAL), (BETTER, "promote", BETTER)]
)
def test_returns_decide(
    server: RunningServer, operator: Operator, simulators: Simulators, name: str, action: str, active: str
) -> None:
    """By 20 % less it is stopped, and promoted by as much or more. Everything that one can look at says why."""
    rules = {"stop_if_return_drops": 0.1, "promote_after_episodes": 150}
    operator.put(canary={"checkpoint": name, "share": 0.5, **rules})
    for _ in range(40):
        simulators.episodes(25)
        if "canary" not in (report := operator.report()):
            break
    decision = report["decision"]
    assert (decision["action"], decision["version"], report["active"]["version"]) == (action, name, active)
    assert decision["canary"]["mean_return"] == pytest.approx(GAINS[int(name[1:])], rel=0.1)
    assert decision["active"]["mean_return"] == pytest.approx(100.0, rel=0.1)
    assert decision["canary"]["mean_length"] == 2.0
    if action == "promote":
        assert decision["canary"]["episodes"] >= 150
    row = operator.version(name)
    assert row["state"] == ("refused" if action == "stop" else "active")
    assert decision["reason"] in row["reason"]
    for start in ("policy_server.swap: p: the trial of", "policy_server.audit: p: canary"):
        until(lambda start=start: any(start in line and decision["reason"] in line for line in server.lines), start)
    counted = f'policy_server_canary_decisions_total{{decision="{action}",policy="p"}} '
    until(lambda: f"{counted}0.0" not in (text := server.http.get("/metrics").text) and counted in text)
    assert simulators.episode() == active
    until(lambda: server.http.get("/v1/policies/p").json()["pinned"] == active, "the pin")


@pytest.mark.parametrize(("fragile", "observation"), [(CRASHING, CRASHES), (OVERFLOWING, OVERFLOWS)])
def test_sessions_of_a_canary_that_fails_end_up_on_the_active_version(
    server: RunningServer, operator: Operator, simulators: Simulators, fragile: str, observation: float
) -> None:
    """An engine that raises, and an answer that is not finite: the same request is answered, and says by which."""
    operator.put(canary={"checkpoint": fragile, "share": 1.0})
    ids = [simulators.begin()[0] for _ in range(5)]
    assert {versions[0] for versions in simulators.versions.values()} == {fragile}
    keeper, answer = simulators.begin(weights="episode")
    assert answer["version"] == fragile
    for id_ in (*ids, keeper):
        assert simulators.step(id_, step=1, observation=[observation, 0.0, 0.0, 0.0])["version"] == ACTIVE
    until(lambda: "canary" not in operator.report())
    decision = operator.report()["decision"]
    assert (decision["action"], decision["version"]) == ("stop", fragile)
    assert "it failed on" in decision["reason"]
    assert operator.version(fragile)["state"] == "refused"
    for id_ in ids:
        assert simulators.step(id_, step=2)["version"] == ACTIVE
    for step in (2, 3):  # it keeps the weights that it began with as far as they answer
        where = [observation, 0.0, 0.0, 0.0] if step == 3 else [0.0] * 4
        assert simulators.step(keeper, step=step, observation=where)["version"] == (ACTIVE if step == 3 else fragile)
    server.http.delete(f"{simulators.root}/{keeper}").raise_for_status()


@ONLY_MEMORY
def test_sessions_of_a_canary_that_is_deleted_end_up_on_the_active_version(
    trainer: NumberTrainer, operator: Operator, simulators: Simulators
) -> None:
    trainer.publish(5, "v5")
    operator.put(canary={"checkpoint": "v5", "share": 1.0})
    id_, answer = simulators.begin()
    assert answer["version"] == "v5"
    shutil.rmtree(trainer.folder / "checkpoints" / "v5")
    until(lambda: "canary" not in operator.report())
    assert operator.report()["decision"]["reason"] == "its checkpoint was deleted"
    assert simulators.step(id_)["version"] == ACTIVE


@ONLY_MEMORY
def test_a_request_asks_for_a_version(server: RunningServer, operator: Operator, simulators: Simulators) -> None:
    def ask(version: str | None, route: str = "action", **more: Any) -> httpx.Response:
        options = {} if version is None else {"options": {"version": version}}
        return server.http.post(f"/v1/policies/p/{route}", json={"observation": [0.0] * 4} | options | more)

    operator.put(canary={"checkpoint": EQUAL, "share": 0.5})
    for asked, answers in ((None, ACTIVE), ("canary", EQUAL), (EQUAL, EQUAL), (ACTIVE, ACTIVE)):
        assert ask(asked).raise_for_status().json()["version"] == answers
    rows = ask("canary", observation=[[0.0] * 4] * 3).raise_for_status().json()
    assert (rows["version"], rows["action"]) == (EQUAL, [[2000, 2000]] * 3)
    refused = ask("v999")
    assert (refused.status_code, refused.json()["title"]) == (409, "Version not loaded")
    assert refused.json()["detail"].startswith("version 'v999' is not loaded; there are: v1, v2")
    assert refused.json()["detail"].endswith("the canary is v2")
    operator.put()
    refused = ask("canary")
    assert refused.status_code == 409
    assert "there is no canary" in refused.json()["detail"]
    assert ask("").status_code == 422
    assert ask("x" * 256).status_code == 422
    in_session = server.http.post(simulators.root, json={"observation": [0.0] * 4, "options": {"version": ACTIVE}})
    assert in_session.status_code == 422
    assert "each keeps to its arm" in in_session.text


def test_latency_of_each_arm_is_that_of_its_answers(server: RunningServer, operator: Operator) -> None:
    """Of those, too, that come alone, and are answered as soon as they are read."""
    operator.put(canary={"checkpoint": EQUAL, "share": 0.5})
    began = time.perf_counter()
    for version in [ACTIVE, "canary"] * 20:
        body = {"observation": [0.0] * 4, "options": {"version": version}}
        server.http.post("/v1/policies/p/action", json=body).raise_for_status()
    most_ms = 1000 * (time.perf_counter() - began)
    report = operator.report()
    for arm in (report["active"], report["canary"]):
        assert arm["answers"] == 20
        assert 0 < arm["p50_ms"] <= arm["p99_ms"] <= most_ms


@ONLY_MEMORY
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"canary": {"checkpoint": ACTIVE, "share": 0.1}}, 409, "version v1 serves already"),
        ({"canary": {"checkpoint": "nothing", "share": 0.1}}, 404, "no checkpoint 'nothing'; the newest are"),
        ({"canary": {"checkpoint": EQUAL, "share": 1.5}}, 422, "share"),
        ({"canary": {"checkpoint": EQUAL, "share": -0.1}}, 422, "share"),
        ({"canary": {"checkpoint": EQUAL, "share": "0.1"}}, 422, "share"),
        ({"canary": {"checkpoint": EQUAL}}, 422, "share"),
        ({"canary": {"share": 0.1}}, 422, "checkpoint"),
        ({"canary": {"checkpoint": EQUAL, "share": 0.1, "promote_after_episodes": 0}}, 422, "promote_after_episodes"),
        ({"canary": {"checkpoint": EQUAL, "share": 0.1, "stop_if_return_drops": -1}}, 422, "stop_if_return_drops"),
        ({"canary": {"checkpoint": EQUAL, "share": 0.1, "stop_if_return_drops": 1e308}}, 422, "stop_if_return_drops"),
        ({"canary": {"checkpoint": EQUAL, "share": 0.1, "percent": 10}}, 422, "percent"),
        ({"canaries": []}, 422, "canaries"),
        ([], 400, "object"),
    ],
)
def test_what_cannot_be_tried_is_refused(operator: Operator, body: Any, status: int, text: str) -> None:
    answer = operator.server.admin.put(f"{operator.path}/traffic", json=body)
    assert answer.status_code == status, answer.text
    assert text in answer.text
    assert "canary" not in operator.report()
    assert operator.server.http.put(f"{operator.path}/traffic", json={}).status_code == 401


@ONLY_MEMORY
def test_without_a_canary_there_is_nothing_to_promote(operator: Operator) -> None:
    answer = operator.server.admin.post(f"{operator.path}/traffic/promote")
    assert answer.status_code == 409
    assert "no canary is tried" in answer.text


@ONLY_MEMORY
def test_a_paused_policy_holds_the_sessions_of_a_canary_too(
    server: RunningServer, operator: Operator, simulators: Simulators
) -> None:
    operator.put(canary={"checkpoint": EQUAL, "share": 1.0})
    id_, _ = simulators.begin()
    server.admin.post("/admin/policies/p/pause", json={"mode": "reject"}).raise_for_status()
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        simulators.step(id_)
    server.admin.post("/admin/policies/p/resume").raise_for_status()
    assert simulators.step(id_)["version"] == EQUAL


@ONLY_MEMORY
def test_an_episode_that_keeps_its_weights_keeps_those_of_the_canary(
    server: RunningServer, operator: Operator, simulators: Simulators
) -> None:
    operator.put(canary={"checkpoint": EQUAL, "share": 1.0})
    follower, _ = simulators.begin()
    keeper, _ = simulators.begin(weights="episode")
    operator.put()
    for _ in range(2):
        assert simulators.step(follower)["version"] == ACTIVE
        assert simulators.step(keeper)["version"] == EQUAL
    server.http.delete(f"{simulators.root}/{keeper}").raise_for_status()


@ONLY_MEMORY
def test_an_observation_that_no_version_can_answer_is_no_failure_of_the_canary(
    operator: Operator, simulators: Simulators
) -> None:
    operator.put(canary={"checkpoint": EQUAL, "share": 1.0})
    id_, _ = simulators.begin()
    with pytest.raises(httpx.HTTPStatusError, match="422"):  # the policy state after it would not be finite
        simulators.step(id_, observation=[3e38, 0.0, 0.0, 0.0])
    assert simulators.step(id_)["version"] == EQUAL
    assert operator.report()["canary"]["failures"] == 0


def restarted(state: Path, folder: Path, url: str) -> contextlib.AbstractContextManager[RunningServer]:
    options = ("--workers", "2", "--state-dir", str(state))
    return serving({"p": folder}, *options, prepared=True, POLICY_SERVER_SESSION_URL=url)


def test_no_session_changes_its_arm_when_workers_and_the_server_are_killed(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path / "p")
    with redis_running() as url:
        with restarted(tmp_path / "state", trainer.folder, url) as server:
            server.reload("p", checkpoint=ACTIVE).raise_for_status()
            operator, simulators = Operator(server), Simulators(server, lambda _: 1.0)
            operator.put(canary={"checkpoint": EQUAL, "share": 0.5, "promote_after_episodes": 10**6})
            ids = [simulators.begin()[0] for _ in range(40)]
            for worker in server.processes("app.worker"):
                os.kill(worker, signal.SIGKILL)
                for id_ in ids:
                    _until_answered(simulators, id_)
            server.reload("p", checkpoint=ACTIVE)  # ends the trial: sessions of the canary are answered all the same
            for id_ in ids:
                simulators.step(id_)
                assert simulators.versions[id_].pop() == ACTIVE
            operator.put(canary={"checkpoint": EQUAL, "share": 0.5, "promote_after_episodes": 10**6})
            server.stop(signal.SIGKILL)
        with restarted(tmp_path / "state", trainer.folder, url) as server:
            simulators.server = server
            report = Operator(server).report()
            assert (report["active"]["version"], report["canary"]["version"]) == (ACTIVE, EQUAL)
            for id_ in ids:
                simulators.step(id_)
            digest = Operator(server).version(EQUAL)["digest"]
            assert {id_: set(simulators.versions[id_]) for id_ in ids} == arms(simulators, digest, 0.5)


def _until_answered(simulators: Simulators, id_: str) -> None:
    def answers() -> bool:
        try:
            simulators.step(id_)
        except httpx.HTTPError:  # the worker that had it is gone: the next one takes it
            return False
        return True

    until(answers)
