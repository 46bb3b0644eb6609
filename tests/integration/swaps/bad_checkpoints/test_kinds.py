"""Each kind of bad checkpoint is refused for its own reason, and the old version answers on without a gap."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saver.artifact import CHECKPOINT_FILE
from tests.integration.swaps.bad_checkpoints.kinds import CASES, KINDS, flip, other_digest, truncate
from tests.integration.swaps.bad_checkpoints.scenario import INDEX, SHARD, TAIL, Scenario, check_placed, check_refused
from tests.support.steady import until


@pytest.mark.parametrize(("kind", "style"), CASES)
def test_a_bad_checkpoint_is_refused_for_its_own_reason(scenario: Scenario, kind: str, style: str) -> None:
    bad = KINDS[kind]
    folder = bad.write(scenario, scenario.next_name(kind), style)
    if kind == "digest does not match":
        other_digest(folder)
    folder = scenario.place(folder)
    scenario.reasons[f"{kind}, {style}"] = check_refused(scenario, folder, bad.says[style])


def test_no_two_kinds_give_the_same_reason(scenario: Scenario) -> None:
    """But for digests, which show that bytes differ and not why; and a lie in a manifest reads as the plain truth."""
    reported: dict[str, set[str]] = {}
    for kind, style in CASES:
        reason = scenario.reasons.get(f"{kind}, {style}")
        if reason is not None and "has sha256" not in reason:
            reported.setdefault(reason, set()).add(kind)
    if not reported:
        pytest.skip("the tests above did not run")
    alike = ({"empty folder", "index missing"}, {"NaN", "infinity"})  # what is said is true of both
    for reason, kinds in reported.items():
        assert len(kinds) == 1 or kinds in alike, f"{kinds} all have the reason: {reason}"


@pytest.mark.parametrize(("name", "style"), [(SHARD, "plain"), (INDEX, "plain"), (SHARD, "ours")])
def test_a_file_truncated_at_any_tenth_is_refused(scenario: Scenario, name: str, style: str) -> None:
    for tenths in range(10):
        folder = scenario.written(scenario.next_name(f"cut-at-{tenths}"), style)
        truncate(name, tenths)(folder)
        what = f"{name} has sha256" if style == "ours" else "(its index|train_step|model_variables/0) cannot be read: "
        check_placed(scenario, folder, what)


def values(folder: Path) -> dict[str, bytes] | None:
    """All that TensorFlow reads from a checkpoint; None where it cannot."""
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        return {key: np.asarray(reader.get_tensor(key)).tobytes() for key in reader.get_variable_to_shape_map()}
    except Exception:  # of many kinds
        return None


def places(folder: Path, full: bool) -> Iterator[tuple[str, int, int]]:
    """(file, place, mask) of each flip: half of them in the index, which is small but holds everything together."""
    draw = random.Random(1306)
    sizes = {name: (folder / name).stat().st_size for name in (INDEX, SHARD)}
    for number in range(200 if full else 10):
        name = (INDEX, SHARD)[number % 2]
        yield name, draw.randrange(sizes[name]), 1 << draw.randrange(8)


def test_a_flipped_bit_anywhere_is_refused(scenario: Scenario, full: bool) -> None:
    """Some 60 bytes of an index are read by nobody (padding, an empty block): there, a flip changes nothing."""
    good = scenario.written("good", "plain")
    idle = 0
    for name, place, mask in places(good, full):
        folder = scenario.written(scenario.next_name(f"flip-at-{place}"), "plain")
        before = values(folder)
        flip(name, place, mask)(folder)
        if values(folder) == before:
            assert name == INDEX
            assert place >= (folder / INDEX).stat().st_size - TAIL
            idle += 1
            shutil.rmtree(folder)
            continue
        check_placed(scenario, folder, "(its index|train_step|model_variables/.|_CHECK.*) cannot be read: ")
    shutil.rmtree(good)
    print(f"{200 if full else 10} flips, {idle} of them in bytes that nobody reads, all others refused")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "checkpoint.json is not JSON"),
        ("[" * 100_000, "checkpoint.json is not JSON"),
        ("[]", "checkpoint.json holds list"),
        ('{"format": 99}', "checkpoint.json has format 99, expected 1"),
        ('{"format": 1, "train_step": 5}', "checkpoint.json lacks .*digest|checkpoint.json lacks .*files"),
        ('{"format": 1, "train_step": 5, "digest": "x", "files": {"../../etc/passwd": "y"}}', "at odds with itself"),
    ],
)
def test_an_odd_manifest_is_refused_and_named(scenario: Scenario, content: str, reason: str) -> None:
    folder = scenario.written(scenario.next_name("odd"), "ours")
    (folder / CHECKPOINT_FILE).write_text(content)
    check_placed(scenario, folder, f".*({reason})")


@pytest.mark.parametrize("style", ["plain", "ours"])
def test_what_is_incomplete_is_not_called_refused_and_holds_nothing_up(scenario: Scenario, style: str) -> None:
    kinds = [kind for kind, bad in KINDS.items() if bad.says.get(style, "").startswith("incomplete")]
    folders = [scenario.place(KINDS[kind].write(scenario, scenario.next_name(kind), style)) for kind in kinds]
    assert len(folders) == 3
    scenario.serve_good("after-the-incomplete", style)
    for folder in folders:
        assert scenario.state(folder.name) != "refused"


@pytest.mark.parametrize("style", ["ours", "plain", "lying"])
def test_a_refused_checkpoint_that_is_mended_serves(scenario: Scenario, style: str) -> None:
    bad = KINDS["NaN" if style == "lying" else "data flipped"]
    name = scenario.next_name("mended")
    folder = scenario.place(bad.write(scenario, name, style))
    scenario.refusal(name)
    scenario.good[name] = scenario.step
    good = scenario.written(name, style)
    for path in sorted(path for path in good.rglob("*") if path.is_file()):
        path.replace(folder / path.relative_to(good))  # file by file: mixed for a moment
    until(lambda: scenario.active() == name, "the mended one serving")
    assert scenario.state(name) == "active"
    scenario.base = name
    shutil.rmtree(good)
