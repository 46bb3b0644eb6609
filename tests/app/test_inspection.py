import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from rich.console import Console
from tf_agents.policies import policy_saver

from app.errors import UnusablePolicy
from app.inspection import inspect
from saver import PolicySaver
from tests.support import demanding
from tests.support import saver_policies as policies
from tests.support.dependent import SharedNoise
from tests.support.saver_policies import SAVERS, Saved
from tests.support.server import ROOT


def shown(folder: Path) -> str:
    out = io.StringIO()
    inspect(folder, Console(file=out, width=200, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("name", SAVERS)
def test_every_kind_of_export_can_be_shown(saved: Saved, name):
    assert "What action takes" in shown(saved.folder(name))


def test_it_shows_what_the_policy_takes_answers_and_can_do(saved: Saved):
    text = shown(saved.folder("nested"))
    for part in (
        "NestedPolicy, written with tensorflow",
        "any number of rows",
        "its rows are answered independently of each other",
        "observation/joints/1",
        "0/observation/joints/1",
        "[0, -5] to [3, 5]",
        "policy_state/trace/0",
        "state/trace/0",
        "info/speed_seen",
        "no: NestedPolicy has none",
        "the weights of the export itself",
    ):
        assert part in text, part
    assert "2 rows a call" in shown(saved.folder("fixed batch"))
    assert "categorical" in shown(saved.folder("q"))
    assert "position" in shown(saved.folder("input_fn"))


def test_checkpoints_come_in_the_order_in_which_they_would_serve(tmp_path):
    saver = policies.SAVERS["q"]()
    saver.save(tmp_path / "q")
    for name in ("9", "10", "broken"):
        saver.save_checkpoint(tmp_path / "q" / "checkpoints" / name)
    (tmp_path / "q" / "checkpoints" / "broken" / "variables" / "variables.index").unlink()
    text = shown(tmp_path / "q").partition("Checkpoints")[2]
    places = [text.index(part) for part in ("10", " 9 ", "export", "broken", "incomplete: variables/variables.index")]
    assert places == sorted(places)


def test_it_shows_which_probe_inputs_are_not_answered(tmp_path):
    PolicySaver(demanding.MAKERS["logarithm"]()).save(tmp_path / "p", verify=False)
    text = shown(tmp_path / "p")
    assert "Probe inputs: 2 of 4 are answered" in text
    assert "probe input 1 (observation -1.): action is not finite" in text


def test_a_plain_export_is_shown_with_what_the_server_would_make_of_it(tmp_path):
    policy_saver.PolicySaver(policies.q()).save(str(tmp_path / "plain"))
    text = shown(tmp_path / "plain")
    assert "TF-Agents' own PolicySaver" in text
    assert "categorical" in text
    assert "no: the export has no serving/ folder" in text


def test_rows_that_depend_on_each_other_are_shown(tmp_path):
    policy_saver.PolicySaver(SharedNoise()).save(str(tmp_path / "noise"))
    assert "two requests do not share a call: action draws" in shown(tmp_path / "noise")


def drawing(saver: Callable[[], PolicySaver], folder: Path, seed: int | None = None) -> str:
    """The sentence on random numbers."""
    tf.random.set_seed(seed)
    try:
        saver().save(str(folder))
    finally:
        tf.random.set_seed(None)
    (line,) = [line for line in shown(folder).splitlines() if line.startswith("action draws")]
    return line


def test_it_says_where_random_numbers_come_from(saved: Saved, tmp_path):
    def seeded() -> PolicySaver:
        return PolicySaver(policies.q(), seed=5)

    def plain() -> Any:
        return policy_saver.PolicySaver(policies.q())

    assert "action draws nothing: equal inputs get equal answers" in shown(saved.folder("nested"))
    assert drawing(policies.SAVERS["q"], tmp_path / "a") == "action draws afresh"
    assert drawing(policies.SAVERS["q"], tmp_path / "b", 1) == (
        "action draws afresh, whatever tf.random.set_seed was when it was saved"
    )
    again = "action draws from a seed in the export, the same again after each start; TensorFlow runs it"
    assert drawing(seeded, tmp_path / "c") == drawing(seeded, tmp_path / "d", 1) == again
    assert drawing(plain, tmp_path / "e") == "action draws afresh"
    assert drawing(plain, tmp_path / "f", 1) == (
        "action draws afresh, but the same again after each start where TensorFlow runs it"
    )


def test_what_is_no_policy_ends_with_one_line(tmp_path):
    with pytest.raises(UnusablePolicy, match=r"saved_model.pb is missing"):
        inspect(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "app", "inspect", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"policy server: {tmp_path} holds no SavedModel: saved_model.pb is missing"]
