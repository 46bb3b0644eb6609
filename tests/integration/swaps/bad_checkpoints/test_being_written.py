"""Checkpoints that are written, or deleted, while the server reads them: whole, or not at all."""

import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from saver.artifact import CHECKPOINT_FILE
from tests.integration.swaps.bad_checkpoints.scenario import INDEX, SHARD, Scenario, check_refused
from tests.support.steady import until


class Writer(threading.Thread):
    """Copies a checkpoint in place, in small steps, one file after the other.

    `pause_s`: the longest time between two; `took_s`: that of all.
    """

    def __init__(self, source: Path, destination: Path, order: tuple[str, ...], parts: int = 40) -> None:
        super().__init__()
        self.pause_s = self.took_s = 0.0
        self.begun = threading.Event()
        self._source, self._destination, self._order, self._parts = source, destination, order, parts

    def run(self) -> None:
        began = last = time.monotonic()
        for name in self._order:
            content = (self._source / name).read_bytes()
            (self._destination / name).parent.mkdir(parents=True, exist_ok=True)
            size = -(-len(content) // self._parts) if name != CHECKPOINT_FILE else len(content)
            with (self._destination / name).open("wb", buffering=0) as file:
                for start in range(0, len(content), size):
                    file.write(content[start : start + size])
                    self.pause_s = max(self.pause_s, time.monotonic() - last)
                    last = time.monotonic()
                    time.sleep(0.01)
                    self.begun.set()
        self.took_s = time.monotonic() - began


ORDERS = {
    "data first": ("plain", (SHARD, INDEX)),
    "index first": ("plain", (INDEX, SHARD)),
    "manifest last": ("ours", (INDEX, SHARD, CHECKPOINT_FILE)),
    "manifest first": ("ours", (CHECKPOINT_FILE, INDEX, SHARD)),
}


def write_slowly(scenario: Scenario, order: str) -> tuple[str, Writer]:
    style, names = ORDERS[order]
    name = scenario.next_name("slow")
    source = scenario.written(name, style)
    scenario.good[name] = scenario.step  # the load fails if it answers before it is whole
    writer = Writer(source, scenario.checkpoints / name, names)
    writer.start()
    writer.begun.wait()
    return name, writer


@pytest.mark.parametrize("order", ORDERS)
def test_a_checkpoint_being_written_serves_once_it_is_whole(scenario: Scenario, order: str) -> None:
    name, writer = write_slowly(scenario, order)
    states = set()
    while writer.is_alive():
        serving, state = scenario.active(), scenario.state(name)
        if writer.is_alive():
            assert serving != name
            states.add(state)
    until(lambda: scenario.active() == name, f"{name} serving")
    scenario.base = name
    if order != "manifest first" and writer.pause_s < 0.2:  # or the machine stood still, and it looked finished
        assert "refused" not in states


@pytest.mark.parametrize("order", ["data first", "index first"])
def test_a_reload_waits_for_a_checkpoint_that_is_being_written(scenario: Scenario, order: str) -> None:
    name, writer = write_slowly(scenario, order)
    response = scenario.server.reload("p", checkpoint=name)
    has_written = not writer.is_alive()
    writer.join()
    if writer.pause_s < 0.2 and writer.took_s < 4.0:  # or the machine stood still, and it looked finished, or given up
        assert response.status_code == 200, response.text
        assert has_written
    until(lambda: scenario.active() == name, f"{name} serving")
    scenario.base = name


def test_a_checkpoint_that_is_never_finished_is_called_incomplete_after_some_seconds(
    scenario: Scenario, full: bool
) -> None:
    if not full:
        pytest.skip("takes its time")
    name = scenario.next_name("endless")
    folder = scenario.place(scenario.written(name, "plain"))
    index = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    stop = threading.Event()

    def write_on() -> None:
        while not stop.wait(0.02):
            (folder / "variables" / "variables.index.tempstate").write_bytes(index)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write_on)
        try:
            began = time.monotonic()
            check_refused(scenario, folder, "incomplete: ")
            assert time.monotonic() - began > 4
        finally:
            stop.set()


def test_a_checkpoint_deleted_while_it_loads_serves_whole_or_not_at_all(scenario: Scenario, full: bool) -> None:
    draw = random.Random(1306)
    outcomes: dict[int, int] = {}
    began = time.monotonic()
    scenario.serve_good("undisturbed")
    usual_s = time.monotonic() - began
    with ThreadPoolExecutor(1) as pool:
        for number in range(100 if full else 10):
            folder = scenario.written(scenario.next_name("goes"), ("ours", "plain")[number % 2])
            scenario.good[folder.name] = scenario.step
            folder = scenario.place(folder)
            answer = pool.submit(scenario.server.reload, "p", checkpoint=folder.name)
            time.sleep(usual_s * draw.random() ** 3)  # mostly early: what is read comes first
            shutil.rmtree(folder)
            check_outcome(scenario, folder.name, answer.result(), outcomes)
    print(f"reloads of what was being deleted, by status: {outcomes}")


def check_outcome(scenario: Scenario, name: str, response: Any, outcomes: dict[int, int]) -> None:
    outcomes[response.status_code] = outcomes.get(response.status_code, 0) + 1
    if response.status_code == 200:
        assert response.json()["version"] == name
    else:
        assert response.status_code in (404, 409), response.text
        assert name in response.json()["detail"]
        assert len(response.json()["detail"]) < 300
    serving = scenario.active()
    answer = scenario.server.http.post("/action", json={"observation": [7, 0, 0, 0]}).json()
    assert answer["action"] == [1000 * scenario.good[serving] + 7] * 2
