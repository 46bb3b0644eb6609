"""Members that come late, with another export, or in a newer version; trainers at once, and two fleets on one Redis."""

import concurrent.futures
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fleet.scenario import MEMBERS, Trainer, reload_next
from tests.support.fleet import Fleet, Member, Plan, fleet_running
from tests.support.fleet_load import fleet_load
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.redis_server import RedisServer, running_redis
from tests.support.server import ROOT
from tests.support.steady import until

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="module")
def running(redis: RedisServer, trainer: Trainer) -> Iterator[Fleet]:
    """At first two members, which have swapped already, behind HAProxy as users are given it."""
    config = ROOT / "deploy" / "haproxy.cfg"
    with fleet_running(trainer.plan(), redis, started=MEMBERS - 1, proxy_config=config) as running:
        for at in (0, 1):
            assert running[at].reload(checkpoint=trainer.publish(at)).status_code == 200
        yield running


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """All members."""
    running.restart_killed()
    running.wait_until_whole(PATIENCE_S)
    return running


def watch_start(member: Member, least: int) -> None:
    """Starts it; as soon as it is ready, it answers from these weights or newer ones."""
    over, early = threading.Event(), []

    def ask() -> None:
        while not over.wait(0.02):
            if member.runs and member.is_ready() and (step := member.serves()) < least:
                early.append(step)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        member.start()
        until(member.is_ready, "it is ready", PATIENCE_S)
        assert member.serves() >= least
    finally:
        over.set()
        asking.join()
    assert early == []


def test_late_joiner_is_ready_with_the_committed_version_only(running: Fleet, trainer: Trainer) -> None:
    """Its folder has the export alone."""
    fleet, late = running, running[MEMBERS - 1]
    late.close()
    shutil.rmtree(late.state, ignore_errors=True)
    watch_start(late, trainer.last)
    fleet.proxy.wait_until_up(*range(MEMBERS))
    assert fleet.serve() == [trainer.last] * MEMBERS
    assert {member["url"] for member in late.described()["members"]} == {
        f"http://127.0.0.1:{member.given.port}" for member in fleet.members
    }
    until(lambda: late.states() == ["active"] * MEMBERS, "all are active")


def test_member_that_was_away_comes_back_with_what_was_committed_meanwhile(fleet: Fleet, trainer: Trainer) -> None:
    away = fleet[1]
    away.close()
    for _ in range(2):
        answer = fleet[0].reload(checkpoint=trainer.publish(0))
        assert (answer.status_code, answer.json()["members"]) == (200, MEMBERS - 1)
    watch_start(away, trainer.last)
    fleet.wait_until_whole(PATIENCE_S)


@pytest.mark.only_full
def test_rolling_update_fails_nothing(fleet: Fleet, trainer: Trainer, tmp_path: Path) -> None:
    """One member after the other is stopped, and started in a newer version of the server; swaps go on meanwhile."""
    newer = tmp_path / "newer"
    for package in ("app", "saver"):
        shutil.copytree(ROOT / package, newer / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (newer / "app" / "__init__.py").open("a") as file:
        file.write('\n__version__ = "99.0.0"\n')
    with fleet_load(fleet.proxy.port) as load:
        load.acknowledged(fleet[0].serves())
        for member in fleet.members:
            others = [other for other in fleet.members if other is not member]
            member.close()
            fleet.proxy.wait_until_up(*(other.number for other in others))
            answer = others[0].reload(checkpoint=trainer.publish(others[0].number))
            assert (answer.status_code, answer.json()["members"]) == (200, MEMBERS - 1)
            load.acknowledged(trainer.last)
            member.start(newer)
            fleet.wait_until_whole(PATIENCE_S)
            load.acknowledged(reload_next(fleet, trainer, member.number))
        load.more(100)
    assert load.wrong == []
    assert load.failed == 0 or load.stood_still, (load.lost, load.refused, load.refused_newest)
    for member in fleet.members:
        assert member.server.http.get("/openapi.json").json()["info"]["version"] == "99.0.0"


def test_two_trainers_at_once_end_in_one_version(fleet: Fleet, trainer: Trainer) -> None:
    """Each publishes, and has another member reload what it has published: the last one that is answered serves."""
    with fleet_load(fleet.proxy.port) as load:
        names = [trainer.publish(0) for _ in range(8)]
        answers = []
        with concurrent.futures.ThreadPoolExecutor(2) as trainers:
            for of_one in (names[::2], names[1::2]):
                at = fleet[len(answers) % 2]
                answers.append(trainers.submit(lambda at=at, of=of_one: [at.reload(checkpoint=name) for name in of]))  # type: ignore[misc]
        # Both orders are right, and so is any mixture: what may not be is two versions at once. Steps may fall.
        done = [answer for found in answers for answer in found.result()]
        assert [answer.status_code for answer in done] == [200] * len(names), [answer.text for answer in done]
        assert len(set(fleet.serve())) == 1
        load.more(50)
    assert not [text for text in load.wrong if not text.startswith("falling")]
    assert load.failed == 0 or load.stood_still, (load.lost, load.refused, load.refused_newest)
    assert fleet.reload(1, checkpoint=names[-1]) == trainer.last
    assert fleet.serve() == [trainer.last] * MEMBERS


def plan_of_one(place: Path, name: str = "default") -> Plan:
    return Plan([{"p": place / "p"}], place / "state", name)


def test_two_fleets_on_one_redis_know_nothing_of_each_other(
    fleet: Fleet, redis: RedisServer, trainer: Trainer, tmp_path: Path
) -> None:
    other_trainer = NumberTrainer(tmp_path / "p")
    plan = plan_of_one(tmp_path, "other")
    with fleet_running(plan, redis) as other:
        before = fleet.serve()
        answer = other[0].reload(checkpoint=other_trainer.publish(777))
        assert (answer.status_code, answer.json()["members"]) == (200, 1), answer.text
        assert other.serve() == [777]
        assert fleet.serve() == before
        step = reload_next(fleet, trainer)
        assert (fleet.serve(), other.serve()) == ([step] * MEMBERS, [777])
        found = other[0].described()
        assert (found["fleet"], len(found["members"])) == ("other", 1)
        assert len(fleet[0].described()["members"]) == MEMBERS


def test_member_with_another_export_is_not_ready_and_hinders_nobody(
    fleet: Fleet, redis: RedisServer, trainer: Trainer, tmp_path: Path
) -> None:
    """Other specs: it cannot serve what is committed. It says why, and the others swap on."""
    NumberTrainer(tmp_path / "p", kind_of_policy=CountingPolicy)
    plan = plan_of_one(tmp_path)
    with fleet_running(plan, redis, started=0) as odd:
        odd[0].start()
        for _ in range(2):
            step = reload_next(fleet, trainer)
            assert fleet.serve() == [step] * MEMBERS
        assert not odd[0].is_ready()
        assert any("cannot serve what the fleet has committed" in line for line in odd[0].server.lines)
    assert fleet.tracebacks() == []


def test_members_on_one_machine_have_the_files_of_a_version_once(fleet: Fleet, trainer: Trainer) -> None:
    hidden = fleet[0].given.hides
    for member in fleet.members:
        member.given.hides = b""
    step = reload_next(fleet, trainer)
    for member in fleet.members:
        member.given.hides = hidden
    assert fleet.serve() == [step] * MEMBERS
    found = [
        max((member.state / "p" / "versions").glob("*/bundle.json"), key=lambda path: path.stat().st_mtime_ns)
        for member in fleet.members
    ]
    assert len({path.stat().st_ino for path in found}) == 1
    assert fleet.reload(1, checkpoint=trainer.publish(1)) == trainer.last  # and one by one again
