"""What was prepared before, and what there is no room for."""

from dataclasses import replace
from typing import Any

import pytest

from app.artifacts.bundle import Prepared
from app.errors import SwapRefused
from saver.artifact import write_checkpoint_manifest
from tests.support.checkpoints import identify
from tests.support.manager import open_harness


@pytest.mark.anyio
async def test_what_was_prepared_before_is_not_prepared_again(tmp_path):
    async with open_harness(tmp_path, ("a", 1), ("b", 2)) as harness:
        for name in ("a", "b", "export", "a", "b", "export"):
            await harness.manager.reload(name)
        assert harness.builder.prepared == ["b", "a", "export"]
        assert harness.serves == ("export", 0)


@pytest.mark.anyio
async def test_files_that_changed_under_a_manifest_are_refused_though_their_digest_is_known(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        folder = harness.put("b", 2)
        write_checkpoint_manifest(folder, 2)
        harness.identify_by_manifest()
        await harness.manager.reload("b")
        await harness.manager.reload("a")
        (folder / "variables" / "weights").write_text("{}")
        with pytest.raises(SwapRefused, match="variables/weights has sha256"):
            await harness.manager.reload("b")
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_refused_for_want_of_room_is_tried_again_at_the_next_look(tmp_path):
    async with open_harness(tmp_path) as harness:
        harness.put("a", 1)
        harness.builder.crash = SwapRefused("no space left", for_now=True)
        await harness.manager.catch_up()
        assert (harness.states["a"], harness.reasons["a"]) == ("refused", "no space left")
        harness.builder.crash = None
        await harness.manager.catch_up()
        assert harness.serves == ("a", 1)


@pytest.mark.anyio
async def test_manifest_over_the_files_of_an_older_version_is_refused_and_nothing_alternates(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        harness.put("c", 5)
        await harness.manager.catch_up()
        assert harness.serves == ("c", 5)
        lying = harness.put("b", 1)  # what a holds
        harness._identify = lambda folder, rest_s: (
            replace(identify(folder, rest_s), train_step=10) if folder == lying else identify(folder, rest_s)
        )
        for _ in range(4):
            await harness.manager.catch_up()
            assert harness.serves == ("c", 5)
        assert harness.reasons == {"b": "checkpoint.json says train step 10, the weights say 1"}
        assert harness.counted("refused_versions_total") == 1
        with pytest.raises(SwapRefused, match="says train step 10"):
            await harness.manager.reload("b")


@pytest.mark.anyio
async def test_where_there_is_no_room_the_oldest_version_to_roll_back_to_goes(tmp_path):
    async with open_harness(tmp_path, ("a", 1)) as harness:
        for step in range(2, 6):
            harness.put("a", step)
            await harness.manager.catch_up()
        prepare, versions = harness.builder.prepare, harness.state_dir.place("x").parent
        assert len(list(versions.iterdir())) == 5

        async def prepare_with_room_for(*args: Any) -> Prepared:
            if len(list(versions.iterdir())) > room:
                refusal = SwapRefused("no room for a copy of it", for_now=True)
                refusal.no_room = True
                raise refusal
            return await prepare(*args)

        harness.builder.prepare = prepare_with_room_for
        room = 2
        harness.put("a", 6)
        await harness.manager.catch_up()
        assert harness.serves == ("a", 6)
        assert (await harness.manager.rollback()).train_step == 5
        room = 0  # not even the active one's place would do
        harness.put("b", 7)
        with pytest.raises(SwapRefused, match="no room"):
            await harness.manager.reload("b")
        assert harness.serves == ("a", 5)
