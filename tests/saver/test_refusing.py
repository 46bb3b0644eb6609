"""Policies that refuse what their saver makes up: they are written, and what could not be compared is said."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saver import PolicySaver, policy_saver
from saver.verify import VerificationError, verify_folder
from tests.support import demanding
from tests.support import saver_policies as policies


def results(folder: Path) -> dict[str, str]:
    return {finding.what: finding.result for finding in verify_folder(folder)}


def said(folder: Path, saver: PolicySaver, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING, "policy_saver"):
        saver.save(folder)
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "policy_saver")


@pytest.mark.parametrize("name", ["numbers in text", "asserts", "far ids", "serialized examples"])
def test_a_policy_that_refuses_every_made_up_input_is_saved_and_the_log_says_what_was_not_compared(
    tmp_path, caplog, name
):
    text = said(tmp_path / "p", PolicySaver(demanding.MAKERS[name]()), caplog)
    assert f"{tmp_path / 'p'}: not compared with the policy: action, serving/action" in text
    assert "the policy refuses probe inputs: " in text
    assert demanding.SAYS[name] in text
    found = results(tmp_path / "p")
    assert (found["files"], found["weights"], found["action"]) == ("ok", "ok", "skipped")
    assert "failed" not in found.values()


def test_a_distribution_behind_an_input_fn_that_parses_text_is_saved(tmp_path, caplog):
    text = said(tmp_path / "p", PolicySaver(policies.q(), input_fn_and_spec=demanding.text_input()), caplog)
    assert "serving/log_prob" in text
    assert "could not correctly convert string" in text
    model = tf.saved_model.load(str(tmp_path / "p" / "serving"))
    assert model.signatures["action"](text=tf.constant(["0.1,0,0,0"]))["action"].shape == [1]


@pytest.mark.parametrize("name", ["logarithm", "one row", "some ids"])
def test_what_is_accepted_is_compared(tmp_path, caplog, name, monkeypatch):
    """The rows that the policy takes, one a call where it takes no more."""
    policy = demanding.MAKERS[name]()
    assert said(tmp_path / "p", PolicySaver(policy), caplog) == ""
    found = results(tmp_path / "p")
    assert found["action"] == "ok"
    assert "failed" not in found.values()
    written = policy_saver.save_serving
    monkeypatch.setattr(
        policy_saver, "save_serving", lambda saved, signatures, folder: written(saved, _spoilt(signatures), folder)
    )
    with pytest.raises(VerificationError, match="serving/action action is"):
        PolicySaver(policy).save(tmp_path / "spoilt")


def _spoilt(signatures: dict) -> dict:
    right = signatures["action"]

    @tf.function(input_signature=right.input_signature)
    def wrong(*tensors):
        answer = right(*tensors)
        return answer | {"action": answer["action"] + np.float32(0.5)}

    return signatures | {"action": wrong}
