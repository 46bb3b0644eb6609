"""Hundreds of swaps of a fleet under load: nothing fails, mixes, falls, or is older than what was acknowledged."""

import statistics
import time
from pathlib import Path

import pytest

from tests.integration.fleet.scenario import MEMBERS, Trainer, upload
from tests.support.fleet import Fleet, fleet_running
from tests.support.fleet_load import FleetLoad, fleet_load


def swap(fleet: Fleet, trainer: Trainer, load: FleetLoad, number: int) -> None:
    """By name, by an upload, or back and forth again, at one member after the other; all serve it when it is said."""
    at = number % MEMBERS
    answer = upload(fleet[at], trainer) if number % 5 == 3 else fleet[at].reload(checkpoint=trainer.publish(at))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["train_step"], answer.json()["members"]) == (trainer.last, MEMBERS)
    load.acknowledged(trainer.last)
    assert fleet.serve() == [trainer.last] * MEMBERS
    if number % 5 == 4:
        go_back(fleet, trainer, load, at)


def go_back(fleet: Fleet, trainer: Trainer, load: FleetLoad, at: int) -> None:
    """Rolls back at another member than the one whose folder has what serves, and forth at that one."""
    with load.rolling_back(trainer.last - 1):
        answer = fleet[(at + 1) % MEMBERS].server.admin.post("/admin/policies/p/rollback")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["train_step"], answer.json()["members"]) == (trainer.last - 1, MEMBERS)
    assert fleet.serve() == [trainer.last - 1] * MEMBERS
    load.go_on()
    assert fleet.reload(at, checkpoint=f"{trainer.last:010d}") == trainer.last
    load.acknowledged(trainer.last)


@pytest.mark.timeout(7200)
def test_fleet_swaps_under_load_through_a_proxy(tmp_path: Path, full: bool) -> None:
    swaps = 1000 if full else 10
    trainer = Trainer(tmp_path)
    took_s = []
    with fleet_running(trainer.plan()) as fleet:
        with fleet_load(fleet.proxy.port, clients=16 if full else 6) as load:
            for number in range(swaps):
                began = time.monotonic()
                swap(fleet, trainer, load, number)
                took_s.append(time.monotonic() - began)
                if number % 10 == 9:
                    trainer.forget()
            load.more(100)
        print(
            f"{swaps} swaps of {MEMBERS} members (median {statistics.median(took_s):.2f} s in all); "
            f"{load.answers.total()} answers of {len(load.answers)} versions, 0 wrong, slowest {load.slowest_s:.2f} s"
        )
        assert load.wrong == []
        assert load.failed == 0 or load.stood_still, (load.lost, load.refused, load.refused_newest)
        assert load.answers.total() >= swaps
        assert fleet.tracebacks() == []
