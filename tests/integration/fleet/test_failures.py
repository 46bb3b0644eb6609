"""Members killed, suspended and cut off, and Redis failing: what serves is always right, and all of it comes back."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.integration.fleet import moments
from tests.integration.fleet.moments import Stage
from tests.integration.fleet.scenario import MEMBERS, Trainer, reload_next
from tests.support.fleet import LEASE_S, Fleet, Member, fleet_running
from tests.support.fleet_load import FleetLoad, fleet_load
from tests.support.steady import until

# Longer than a lease, a coordinator's patience after it, and a restart on a busy machine.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("failures"))


@pytest.fixture(scope="module")
def running(trainer: Trainer) -> Iterator[Fleet]:
    with fleet_running(trainer.plan()) as fleet:
        reload_next(fleet, trainer)  # Redis knows the scripts from now on
        yield fleet


@pytest.fixture
def fleet(running: Fleet, trainer: Trainer) -> Iterator[Fleet]:
    """A whole one, before and after; whatever has happened to it, the next swap succeeds."""
    before = len(running.tracebacks())
    yield running
    running.restart_killed()
    running.wait_until_whole(PATIENCE_S)
    step = reload_next(running, trainer)
    assert running.serve() == [step] * MEMBERS
    new = running.tracebacks()[before:]
    print(*new, sep="\n")
    assert not new


@contextmanager
def load_of(fleet: Fleet, trainer: Trainer) -> Iterator[FleetLoad]:
    """Nothing that its clients see is wrong."""
    with fleet_load(fleet.proxy.port) as load:
        load.acknowledged(fleet[0].serves())
        yield load
        load.more(100)
    print(f"{load.answers.total()} answers; lost {dict(load.lost)}, refused {dict(load.refused)}")
    assert load.wrong == []


def reload_somewhere(members: list[Member], name: str, tries: Counter[str]) -> int:
    """As a trainer would: at one member after the other until it is acknowledged; the train step that serves then."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for member in members:
            try:
                answer = member.reload(checkpoint=name)
            except httpx.TransportError as error:
                tries[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                return int(answer.json()["train_step"])
            tries[f"{answer.status_code}: {answer.json()['detail'][:80]}"] += 1
        time.sleep(0.2)
    raise AssertionError(f"{name} cannot be reloaded: {tries}")


class Killer:
    """Kills the member that it is called with, and starts it again, as an orchestrator would."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self._starting: list[threading.Thread] = []

    def __call__(self, member: Member) -> None:
        """Any thread; kills one only."""
        if not self.killed:
            self.killed.append(member.number)
            member.kill()
            self._starting.append(threading.Thread(target=member.start))
            self._starting[0].start()

    def wait(self) -> None:
        for thread in self._starting:
            thread.join()


def kill_at(stage: Stage, fleet: Fleet, trainer: Trainer, load: FleetLoad, coordinator: int) -> Counter[str]:
    """One swap in which a member is killed; returns why it was asked again."""
    killer, tries = Killer(), Counter[str]()
    stage.of(fleet, coordinator, killer)
    name = trainer.publish(coordinator)
    try:
        # Both that share the folder know the name.
        assert reload_somewhere([fleet[coordinator], fleet[1 - coordinator]], name, tries) == trainer.last
        load.acknowledged(trainer.last)
        fleet.check_ready_ones(trainer.last)
    finally:
        for member in fleet.members:
            member.redis.forget()
            member.given.forget()
        killer.wait()
    assert killer.killed, f"{stage}: it has not come about"
    fleet.wait_until_whole(PATIENCE_S)
    assert fleet.serve() == [trainer.last] * MEMBERS
    return tries


@pytest.mark.timeout(7200)
def test_killed_at_every_stage_of_a_swap(fleet: Fleet, trainer: Trainer, full: bool) -> None:
    stages = moments.ALL * 5 if full else moments.FEW
    tries: Counter[str] = Counter()
    with load_of(fleet, trainer) as load:
        for number, stage in enumerate(stages):
            began = time.monotonic()
            again = kill_at(stage, fleet, trainer, load, number % 2)
            print(f"{stage}: {time.monotonic() - began:.1f} s, asked again for {dict(again)}")
            tries += again
            trainer.forget()
    print(f"{len(stages)} kills, asked again for: {dict(tries)}")


@pytest.mark.timeout(7200)
@pytest.mark.only_full
def test_killed_at_any_time_of_a_swap(fleet: Fleet, trainer: Trainer, full: bool) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    print(f"seed {seed}")
    with load_of(fleet, trainer) as load:
        for _ in range(20 if full else 1):
            killer, tries = Killer(), Counter[str]()
            member = fleet[draw.randrange(MEMBERS)]
            timer = threading.Timer(draw.uniform(0, 0.3), killer, [member])
            name = trainer.publish(0)
            timer.start()
            assert reload_somewhere([fleet[0], fleet[1]], name, tries) == trainer.last
            load.acknowledged(trainer.last)
            fleet.check_ready_ones(trainer.last)
            timer.join()
            killer.wait()
            fleet.wait_until_whole(PATIENCE_S)
            assert fleet.serve() == [trainer.last] * MEMBERS
            trainer.forget()


def swap_without(member: Member, fleet: Fleet, trainer: Trainer, load: FleetLoad) -> None:
    """The others wait for its lease, and swap without it; it is not ready from then on."""
    name, began = trainer.publish(0), time.monotonic()
    answer = fleet[0].reload(checkpoint=name)
    took_s = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    load.acknowledged(trainer.last)
    assert answer.json()["members"] == MEMBERS - 1
    print(f"swapped without member {member.number} after {took_s:.1f} s")
    for other in fleet.members:
        if other is not member:
            assert other.serves() == trainer.last
    load.more(100)


def check_way_back(member: Member, trainer: Trainer) -> None:
    """It is ready with the committed version only."""

    def is_back() -> bool:
        ready = member.is_ready()
        step = member.serves()
        assert not ready or step == trainer.last, f"ready with {step}"
        return ready

    until(is_back, "it is ready again", PATIENCE_S)


@pytest.mark.only_full
def test_suspended_for_longer_than_its_lease(fleet: Fleet, trainer: Trainer) -> None:
    member = fleet[2]
    with load_of(fleet, trainer) as load:
        member.signal(signal.SIGSTOP)
        swap_without(member, fleet, trainer, load)
        member.signal(signal.SIGCONT)
        check_way_back(member, trainer)


def test_control_suspended_for_longer_than_its_lease(fleet: Fleet, trainer: Trainer) -> None:
    """Its workers answer all the time, and know when the lease has ended."""
    member = fleet[1]
    with load_of(fleet, trainer) as load:
        member.server.process.send_signal(signal.SIGSTOP)
        try:
            swap_without(member, fleet, trainer, load)
            check_left_behind(member, trainer)
        finally:
            member.server.process.send_signal(signal.SIGCONT)
        check_way_back(member, trainer)


def check_left_behind(member: Member, trainer: Trainer) -> None:
    """It answers as before, but for who asks for weights that the others may have."""
    assert not member.is_ready()
    assert member.serves() < trainer.last
    body = {"observation": [7, 0, 0, 0], "options": {"min_train_step": trainer.last}}
    answer = member.server.http.post("/v1/policies/p/action", json=body)
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text


@pytest.mark.parametrize("silently", [True, pytest.param(False, marks=pytest.mark.only_full)])
def test_cut_off_from_redis(fleet: Fleet, trainer: Trainer, silently: bool) -> None:
    member = fleet[2]
    with load_of(fleet, trainer) as load:
        member.redis.cut(silently)
        try:
            swap_without(member, fleet, trainer, load)
            check_left_behind(member, trainer)
            refused = member.reload(checkpoint="export")
            assert refused.status_code == 503, refused.text
        finally:
            member.redis.mend()
        check_way_back(member, trainer)


@contextmanager
def stopped(fleet: Fleet) -> Iterator[None]:
    fleet.redis.stop()
    try:
        yield
    finally:
        fleet.redis.start()


@contextmanager
def suspended(fleet: Fleet) -> Iterator[None]:
    fleet.redis.suspend()
    try:
        yield
    finally:
        fleet.redis.resume()


@contextmanager
def filled(fleet: Fleet) -> Iterator[None]:
    fleet.redis.fill()
    try:
        yield
    finally:
        fleet.redis.drain()


@pytest.mark.parametrize(
    "failing", [stopped, *(pytest.param(way, marks=pytest.mark.only_full) for way in (suspended, filled))]
)
def test_without_redis_everything_serves_on(fleet: Fleet, trainer: Trainer, failing: Callable[[Fleet], object]) -> None:
    """For longer than a lease: each stays ready, and nothing can be swapped."""
    with load_of(fleet, trainer) as load:
        step, name = fleet[0].serves(), trainer.publish(0)
        with failing(fleet):  # type: ignore[attr-defined]
            began = time.monotonic()
            refused = fleet[0].reload(checkpoint=name)
            assert refused.status_code == 503, refused.text
            time.sleep(max(0, began + LEASE_S + 2 - time.monotonic()))
            fleet.wait_until_whole(PATIENCE_S)
            assert fleet.serve() == [step] * MEMBERS
            load.more(100)
        assert load.refused.total() == 0
        assert reload_somewhere([fleet[0], fleet[1]], name, Counter()) == trainer.last
        load.acknowledged(trainer.last)
        fleet.check_ready_ones(trainer.last)


@pytest.mark.parametrize("way", ["emptied", pytest.param("restarted", marks=pytest.mark.only_full)])
def test_redis_that_forgets_is_taught_again(fleet: Fleet, trainer: Trainer, way: str) -> None:
    with load_of(fleet, trainer) as load:
        step = fleet[0].serves()
        if way == "emptied":
            fleet.redis.empty()
        else:
            fleet.redis.stop()
            fleet.redis.start()
        load.more(50)
        assert fleet.serve() == [step] * MEMBERS
        name = trainer.publish(1)
        assert reload_somewhere([fleet[1], fleet[0]], name, Counter()) == trainer.last
        load.acknowledged(trainer.last)
        fleet.check_ready_ones(trainer.last)
        fleet.wait_until_whole(PATIENCE_S)
        assert fleet.serve() == [trainer.last] * MEMBERS
