"""Back to earlier versions, and pins: by hand over a fake builder, also after a restart."""

import asyncio
import shutil

import pytest

from app.errors import SwapRefused
from tests.app.control.test_manager import open_house, run


def test_rollback_goes_back_one_version_at_a_time_and_stays_there(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            for name, step in (("b", 2), ("c", 3)):
                house.put(name, step)
                await house.manager.catch_up()
            swapped = await house.manager.rollback()
            assert (swapped.version, swapped.previous) == ("b", "c")
            assert (house.serves, house.manager.pinned) == (("b", 2), "b")
            house.put("d", 4)
            await house.manager.catch_up()
            assert house.serves == ("b", 2)
            await house.manager.rollback()
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")
            with pytest.raises(SwapRefused, match="no version served before a"):
                await house.manager.rollback()
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")
            await house.manager.reload(None)
            assert (house.serves, house.manager.pinned) == (("d", 4), None)
            await house.manager.rollback()
            assert house.serves == ("a", 1)

    run(test)


def test_rollback_needs_no_folder_of_the_trainers(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            house.put("b", 2)
            await house.manager.catch_up()
            await house.manager.close()
            shutil.rmtree(house.checkpoints / "a")
            await house.manager.rollback()
            assert house.serves == ("a", 1)
            await house.manager.catch_up()
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")

    run(test)


def test_rollback_to_the_export(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p") as house:
            house.put("a", 1)
            await house.manager.catch_up()
            await house.manager.rollback()
            assert (house.serves, house.manager.pinned) == (("export", 0), "export")
            with pytest.raises(SwapRefused, match="no version served before export"):
                await house.manager.rollback()

    run(test)


def test_rollback_that_is_refused_changes_nothing(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            house.put("b", 2)
            await house.manager.catch_up()
            house.worker.loader.refusal = SwapRefused("its disk is gone")
            with pytest.raises(SwapRefused, match="its disk is gone"):
                await house.manager.rollback()
            assert (house.serves, house.manager.pinned) == (("b", 2), None)
            house.worker.loader.refusal = None
            await house.manager.rollback()
            assert house.serves == ("a", 1)

    run(test)


def test_the_last_five_versions_can_be_gone_back_to(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p") as house:
            for step in range(1, 10):
                house.put(f"c{step}", step)
                await house.manager.catch_up()
            await house.manager.close()
            shutil.rmtree(house.checkpoints)
            for step in (8, 7, 6, 5, 4):
                await house.manager.rollback()
                assert house.serves == (f"c{step}", step)
            with pytest.raises(SwapRefused, match="no version served before c4"):
                await house.manager.rollback()

    run(test)


@pytest.mark.parametrize("gone", [False, True])
def test_a_rollback_survives_a_restart(tmp_path, gone):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), state=tmp_path / "state") as house:
            house.put("b", 2)
            await house.manager.catch_up()
            await house.manager.rollback()
        if gone:
            shutil.rmtree(house.checkpoints / "a")
        async with open_house(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")
            await house.manager.reload(None)
            assert (house.serves, house.manager.pinned) == (("b", 2), None)
            await house.manager.rollback()
            assert house.serves == ("a", 1)

    run(test)


@pytest.mark.parametrize("name", ["a", "export"])
def test_a_pin_survives_a_restart(tmp_path, name):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as house:
            await house.manager.reload(name)
            served = house.serves
        async with open_house(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (served, name)

    run(test)


def test_a_pin_whose_checkpoint_is_gone_at_the_start_is_dropped(tmp_path, caplog):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as house:
            await house.manager.reload("a")
        shutil.rmtree(house.checkpoints / "a")
        async with open_house(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (("b", 2), None)

    run(test)
    assert "pin on" in caplog.text


def test_a_pin_that_cannot_be_resumed_is_dropped(tmp_path, caplog):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as house:
            await house.manager.reload("a")
        shutil.rmtree(tmp_path / "state" / "versions")
        house.put("a", 1, refuse="it holds NaN")
        async with open_house(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (("b", 2), None)

    run(test)
    assert "the pin on a is dropped" in caplog.text


def test_another_export_forgets_what_the_first_one_served(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), ("b", 2), state=tmp_path / "state") as house:
            await house.manager.reload("a")
        house.replace_graph("another export")
        async with open_house(tmp_path / "p", state=tmp_path / "state") as house:
            assert (house.serves, house.manager.pinned) == (("b", 2), None)

    run(test)


# Two at once: they are done in the order in which they were asked for


def test_a_rollback_behind_a_reload_undoes_it(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1), ("b", 2)) as house:
            reload, rollback = await asyncio.gather(house.manager.reload("a"), house.manager.rollback())
            assert (reload.previous, reload.version) == ("b", "a")
            assert (rollback.previous, rollback.version) == ("a", "b")
            assert (house.serves, house.manager.pinned) == (("b", 2), "b")

    run(test)


def test_a_reload_behind_a_rollback_has_the_last_word(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            house.put("b", 2)
            await house.manager.catch_up()
            _, reload = await asyncio.gather(house.manager.rollback(), house.manager.reload(None))
            assert reload.version == "b"
            assert (house.serves, house.manager.pinned) == (("b", 2), None)
            await house.manager.rollback()
            assert house.serves == ("a", 1)

    run(test)


def test_two_rollbacks_at_once_go_back_two_versions(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            for name, step in (("b", 2), ("c", 3)):
                house.put(name, step)
                await house.manager.catch_up()
            await asyncio.gather(house.manager.rollback(), house.manager.rollback())
            assert house.serves == ("a", 1)

    run(test)


def test_a_newer_checkpoint_that_comes_during_a_rollback_does_not_undo_it(tmp_path):
    async def test() -> None:
        async with open_house(tmp_path / "p", ("a", 1)) as house:
            house.put("b", 2)
            await house.manager.catch_up()
            loader = house.worker.loader
            loader.go_on.clear()
            loader.entered.clear()
            back = asyncio.create_task(house.manager.rollback())
            await asyncio.get_running_loop().run_in_executor(None, loader.entered.wait, 10)
            house.put("c", 3)
            look = asyncio.create_task(house.manager.catch_up())
            loader.go_on.set()
            await asyncio.gather(back, look)
            assert (house.serves, house.manager.pinned) == (("a", 1), "a")

    run(test)
