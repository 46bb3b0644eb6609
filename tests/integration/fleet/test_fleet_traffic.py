"""A canary that a whole fleet tries: one wish, one assignment, one report, and one decision for all servers."""

import itertools
from collections.abc import Iterator, Sequence

import pytest

from app.traffic.assignment import CANARY, arm_of
from tests.support.canaries import FragilePolicy, Operator, Simulators
from tests.support.fleet import Fleet, Plan, fleet_running
from tests.support.policies import NumberTrainer
from tests.support.steady import until

ACTIVE, EQUAL, WORSE = "v1", "v2", "v3"
GAINS = {1: 100.0, 2: 100.0, 3: 60.0}
MEMBERS = 2
PATIENCE_S = 120.0
IDS = (f"fleet-{number}" for number in itertools.count())
RULES = {"stop_if_return_drops": 0.1, "promote_after_episodes": 300}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet-traffic")
    trainer = NumberTrainer(folder / "p", kind_of_policy=FragilePolicy)
    for name in (ACTIVE, EQUAL, WORSE):
        trainer.publish(int(name[1:]), name)
    plan = Plan([{"p": trainer.folder}] * MEMBERS, folder / "state", sessions=True)
    with fleet_running(plan) as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """The first version serves everywhere, and nothing is tried."""
    running.restart_killed()
    running.wait_until_whole(PATIENCE_S)
    running.reload(checkpoint=ACTIVE)
    return running


@pytest.fixture
def operators(fleet: Fleet) -> list[Operator]:
    return [Operator(member.server) for member in fleet.members]


@pytest.fixture
def simulators(fleet: Fleet) -> list[Simulators]:
    return [Simulators(member.server, lambda number: GAINS[number], ids=IDS) for member in fleet.members]


def serving(fleet: Fleet, fact: str) -> list[str]:
    """A fact about the policy, by each server."""
    return [member.server.http.get("/v1/policies/p").json()[fact] for member in fleet.members]


def play(simulators: Sequence[Simulators], operators: Sequence[Operator], episodes: int = 25) -> None:
    """Plays on all servers until the trial has ended on all of them."""
    for _ in range(40):
        for each in simulators:
            each.episodes(episodes)
        if all("canary" not in operator.report() for operator in operators):
            return
    raise AssertionError(operators[0].report())


def test_wish_of_one_server_is_tried_by_all_and_sessions_keep_their_arm_on_any(
    fleet: Fleet, operators: list[Operator], simulators: list[Simulators]
) -> None:
    operators[0].put(canary={"checkpoint": EQUAL, "share": 0.5})
    digest = operators[1].version(EQUAL)["digest"]
    assert [operator.report()["canary"]["version"] for operator in operators] == [EQUAL] * MEMBERS
    for at, each in enumerate(simulators):
        for id_ in [each.begin()[0] for _ in range(20)]:
            other = simulators[1 - at]
            versions = {*each.versions[id_], other.step(id_, run_id="r")["version"]}
            assert versions == {EQUAL if arm_of(id_, digest, 0.5) == CANARY else ACTIVE}
    assert serving(fleet, "version") == [ACTIVE] * MEMBERS
    for operator in operators:  # each knows within a second what the others have seen
        until(lambda operator=operator: _sessions(operator.report()) == 20 * MEMBERS, timeout_s=PATIENCE_S)
    operators[1].put()
    assert ["canary" in operator.report() for operator in operators] == [False] * MEMBERS
    for operator in operators:
        assert operator.version(EQUAL)["state"] == "refused"
        assert operator.report()["decision"]["action"] == "stop"


def test_returns_of_all_servers_stop_it_everywhere(operators: list[Operator], simulators: list[Simulators]) -> None:
    operators[1].put(canary={"checkpoint": WORSE, "share": 0.5, **RULES})
    play(simulators, operators)
    decisions = [operator.report()["decision"] for operator in operators]
    assert decisions[0] == decisions[1]
    assert (decisions[0]["action"], decisions[0]["version"]) == ("stop", WORSE)
    for operator in operators:
        row = operator.version(WORSE)
        assert (row["state"], decisions[0]["reason"] in row["reason"]) == ("refused", True)
    begun = sum(len(each.versions) for each in simulators)
    assert decisions[0]["canary"]["sessions"] + decisions[0]["active"]["sessions"] <= begun
    assert (
        decisions[0]["canary"]["episodes"]
        > max(sum(versions[0] == WORSE for versions in each.versions.values()) for each in simulators) / 2
    )


def test_any_server_promotes_it_on_all(fleet: Fleet, operators: list[Operator], simulators: list[Simulators]) -> None:
    operators[0].put(canary={"checkpoint": EQUAL, "share": 0.5})
    simulators[0].episodes(4)
    for operator in operators:  # it was stopped before, and is asked for again
        assert operator.version(EQUAL)["state"] == "verified"
    promoted = operators[1].promote()
    assert (promoted["version"], promoted["previous"], promoted["members"]) == (EQUAL, ACTIVE, MEMBERS)
    assert serving(fleet, "version") == [EQUAL] * MEMBERS
    for operator in operators:
        decision = operator.report()["decision"]
        assert (decision["action"], decision["version"]) == ("promote", EQUAL)
    assert serving(fleet, "pinned") == [EQUAL] * MEMBERS


def test_trial_goes_on_when_a_server_is_killed_and_comes_back(
    fleet: Fleet, operators: list[Operator], simulators: list[Simulators]
) -> None:
    """Whichever decides: what the killed one has seen counts, and once only."""
    operators[0].put(canary={"checkpoint": EQUAL, "share": 0.5})
    for each in simulators:
        each.episodes(10)
    until(lambda: _episodes(operators[1].report()) == 20, timeout_s=PATIENCE_S)
    fleet[0].kill()
    simulators[1].episodes(10)
    until(lambda: _episodes(operators[1].report()) == 30, timeout_s=PATIENCE_S)
    fleet.restart_killed()
    fleet.wait_until_whole(PATIENCE_S)
    back = Operator(fleet[0].server)
    until(lambda: _episodes(back.report()) == 30, timeout_s=PATIENCE_S)
    back.promote()
    assert serving(fleet, "version") == [EQUAL] * MEMBERS
    assert fleet.tracebacks() == []


def _sessions(report: dict) -> int:
    return report["active"]["sessions"] + report["canary"]["sessions"]


def _episodes(report: dict) -> int:
    return report["active"]["episodes"] + report["canary"]["episodes"]
