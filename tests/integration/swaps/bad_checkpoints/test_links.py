"""Links and other things that are no files: none leads out of the folder, none makes the server wait."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from saver.artifact import CHECKPOINT_FILE
from tests.integration.swaps.bad_checkpoints.scenario import (
    INDEX,
    SHARD,
    Scenario,
    check_refused,
)


def link_away(name: str) -> Callable[[Path], object]:
    """Moves a file or folder of the checkpoint out of the policy's folder, and leaves a link to it."""

    def spoil(folder: Path) -> None:
        there = folder.parent / f"outside-{folder.name}-{Path(name).name}"
        (folder / name).rename(there)
        (folder / name).symlink_to(there)

    return spoil


@pytest.mark.parametrize(
    ("name", "style"),
    [
        (SHARD, "ours"),
        (INDEX, "ours"),
        ("variables", "ours"),
        (CHECKPOINT_FILE, "ours"),
        (SHARD, "plain"),
        (INDEX, "plain"),
        ("variables", "plain"),
    ],
)
def test_a_link_that_leads_out_of_the_checkpoint_is_refused(scenario: Scenario, name: str, style: str) -> None:
    folder = scenario.written(scenario.next_name("linked"), style)
    scenario.good[folder.name] = scenario.step  # its values are no bad ones
    link_away(name)(folder)
    check_refused(scenario, scenario.place(folder), rf"refused: {name}\S* leads outside")


@pytest.mark.parametrize("style", ["ours", "plain"])
def test_a_checkpoint_that_is_a_link_to_somewhere_else_is_refused(scenario: Scenario, style: str) -> None:
    folder = scenario.written(scenario.next_name("elsewhere"), style)
    link = scenario.checkpoints / folder.name
    link.symlink_to(folder)
    check_refused(scenario, link, "refused: it is a link that leads outside checkpoints")


def test_a_checkpoint_that_is_a_link_to_another_serves_as_what_it_leads_to(scenario: Scenario) -> None:
    name = scenario.serve_good("real")
    (scenario.checkpoints / "latest").symlink_to(name)
    scenario.good["latest"] = scenario.step
    assert scenario.server.reload("p", checkpoint="latest").json()["version"] == "latest"


@pytest.mark.parametrize("target", ["nowhere", "itself", "/etc/passwd", "/dev/zero"])
def test_a_link_to_no_folder_is_no_checkpoint(scenario: Scenario, target: str) -> None:
    (scenario.checkpoints / "itself").symlink_to(target)
    response = scenario.server.reload("p", checkpoint="itself")
    assert response.status_code == 404
    scenario.check_unchanged()


@pytest.mark.parametrize("name", [SHARD, INDEX, CHECKPOINT_FILE])
def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(scenario: Scenario, name: str) -> None:
    folder = scenario.written(scenario.next_name("fifo"), "ours")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    folder = scenario.place(folder)
    response = scenario.server.reload("p", checkpoint=folder.name)
    assert response.status_code == 409
    assert name in response.json()["detail"]
    scenario.check_unchanged()
