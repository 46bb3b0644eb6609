"""What a manager serves first."""

import pytest

from app.errors import SwapRefused
from tests.support.checkpoints import put
from tests.support.manager import FakeBuilder, open_harness


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("there", "serves"),
    [
        ([], ("export", 0)),
        ([("a", 3), ("b", 7), ("c", 5)], ("b", 7)),
        ([("step-9", 7), ("step-10", 7)], ("step-10", 7)),
        ([("unknown", -1)], ("unknown", -1)),
    ],
)
async def test_start_serves_the_highest_train_step(tmp_path, there, serves):
    async with open_harness(tmp_path, *there) as harness:
        assert harness.serves == serves
        assert harness.manager.pinned is None
        assert harness.counted("train_step") == serves[1]


@pytest.mark.anyio
async def test_start_passes_over_refused_checkpoints_to_the_next_best_and_says_why(tmp_path):
    put(tmp_path / "checkpoints", "b", 9, refuse="it holds NaN")
    put(tmp_path / "checkpoints", "c", 8, unreadable="its index is damaged")
    put(tmp_path / "checkpoints", "d", 7, refuse="another architecture")

    async with open_harness(tmp_path, ("a", 3), ("z", 2)) as harness:
        assert harness.serves == ("a", 3)
        assert harness.reasons == {
            "b": "it holds NaN",
            "c": "its index is damaged",
            "d": "another architecture",
        }
        refused = dict.fromkeys("bcd", "refused")
        assert harness.states == refused | {"a": "active", "z": "found"}
        assert harness.counted("refused_versions_total") == 3


@pytest.mark.anyio
async def test_start_serves_the_export_where_every_checkpoint_is_refused(tmp_path):
    put(tmp_path / "checkpoints", "a", 9, refuse="it holds NaN")

    async with open_harness(tmp_path) as harness:
        assert harness.serves == ("export", 0)


@pytest.mark.anyio
async def test_export_that_fails_on_probe_inputs_is_no_policy(tmp_path):
    builder = FakeBuilder()
    builder.export_is_bad = "the action is not finite"

    with pytest.raises(SwapRefused, match="the action is not finite"):
        async with open_harness(tmp_path, builder=builder):
            pass


@pytest.mark.anyio
async def test_a_checkpoint_that_may_serve_is_enough_whatever_the_exports_own_weights_are(tmp_path):
    builder = FakeBuilder()
    builder.export_is_bad = "the action is not finite"

    async with open_harness(tmp_path, ("a", 1), builder=builder) as harness:
        assert harness.serves == ("a", 1)
