"""An answer of the Open Inference Protocol: each output in JSON or behind it, as its request wants it."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.dialects.calls import Reply
from app.dialects.open_inference_answer import Form

MODEL: Any = SimpleNamespace(name="p")
OUTPUTS = {"action": np.array([[0.1, -2.0]], np.float32), "log_prob": np.array([-0.5])}


def form(outputs: dict[str, bool] | None = None, *, binary: bool = False, id_: str | None = None) -> Form:
    return Form(MODEL, id_, outputs, binary)


def parts(reply: Reply) -> tuple[Any, bytes]:
    """The JSON of an answer, and what is behind it."""
    media_type, _, rest = reply.head.partition(b"\r\n")
    if media_type == b"application/json":
        assert rest == b""
        return json.loads(reply.body), b""
    name, _, length = rest.partition(b": ")
    assert (media_type, name) == (b"application/octet-stream", b"inference-header-content-length")
    return json.loads(reply.body[: int(length)]), reply.body[int(length) :]


def test_an_answer_in_json_has_what_the_protocol_asks_for() -> None:
    reply = form(id_="mine").reply(OUTPUTS, "step-7", 7)
    assert reply.head == b"application/json"
    assert json.loads(reply.body) == {
        "model_name": "p",
        "model_version": "step-7",
        "id": "mine",
        "parameters": {"train_step": 7},
        "outputs": [
            {"name": "action", "datatype": "FP32", "shape": [1, 2], "data": [0.1, -2.0]},
            {"name": "log_prob", "datatype": "FP64", "shape": [1], "data": [-0.5]},
        ],
    }


@pytest.mark.parametrize(("id_", "present"), [(None, False), ("", True)])
def test_only_a_request_with_an_id_gets_it_back(id_: str | None, present: bool) -> None:
    found, _ = parts(form(id_=id_).reply(OUTPUTS, "v", 0))
    assert ("id" in found) is present


@pytest.mark.parametrize("asked", [{"action": True, "log_prob": True}, None])
def test_raw_outputs_lie_behind_the_json_in_their_order(asked: Any) -> None:
    found, blobs = parts(form(asked, binary=asked is None).reply(OUTPUTS, "v", 0))
    assert [output["parameters"] for output in found["outputs"]] == [{"binary_data_size": 8}] * 2
    assert not any("data" in output for output in found["outputs"])
    assert blobs == OUTPUTS["action"].tobytes() + OUTPUTS["log_prob"].tobytes()


@pytest.mark.parametrize("raw", ["action", "log_prob"])
@pytest.mark.parametrize("default", [True, False])
def test_each_output_comes_as_it_is_asked_for_whatever_the_others_do(raw: str, default: bool) -> None:
    asked = {raw: True, "log_prob" if raw == "action" else "action": False}
    found, blobs = parts(form(asked, binary=default).reply(OUTPUTS, "v", 0))
    assert blobs == OUTPUTS[raw].tobytes()
    for output in found["outputs"]:
        assert ("data" in output) is not ("parameters" in output)
        assert ("parameters" in output) is (output["name"] == raw)


def test_strings_have_their_length_before_them_where_they_are_raw() -> None:
    words = {"word": np.array(["left", "é"], object)}
    found, blobs = parts(form(binary=True).reply(words, "v", 0))
    assert found["outputs"] == [
        {"name": "word", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 14}}
    ]
    assert blobs == b"\x04\0\0\0left\x02\0\0\0" + "é".encode()
    found, _ = parts(form().reply(words, "v", 0))
    assert found["outputs"][0]["data"] == ["left", "é"]


@pytest.mark.parametrize("binary", [True, False])
def test_every_answer_has_its_own_numbers_version_and_shape(binary: bool) -> None:
    kept = form(binary=binary)
    wider = {"action": np.array([[1, 2, 3]], np.float32), "log_prob": np.array([0.0])}
    integers = {"action": np.array([[1, 2]], np.int32), "log_prob": np.array([0.0])}
    same = {"action": np.array([[5, 6]], np.float32), "log_prob": np.array([7.0])}
    for outputs, version, step in (
        (OUTPUTS, "v", 0), (same, "v", 0), (same, "w", 0), (same, "w", 1), (wider, "w", 1), (integers, "w", 1),
    ):  # fmt: skip
        assert kept.reply(outputs, version, step) == form(binary=binary).reply(outputs, version, step)


def test_words_of_other_lengths_have_other_sizes() -> None:
    kept = form(binary=True)
    for words in (["a"], ["abc"]):
        outputs = {"word": np.array(words, object)}
        assert kept.reply(outputs, "v", 0) == form(binary=True).reply(outputs, "v", 0)


def test_numbers_in_another_order_in_memory_are_those_of_the_rows() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    found, _ = parts(form().reply({"action": array}, "v", 0))
    assert found["outputs"][0]["data"] == [0, 1, 2, 3, 4, 5]
    _, blobs = parts(form(binary=True).reply({"action": array}, "v", 0))
    assert blobs == np.arange(6, dtype=np.float32).tobytes()


def test_an_answer_without_outputs_is_json_too() -> None:
    """The initial state of a policy that has none."""
    reply = form().reply({}, "v", 0)
    assert json.loads(reply.body)["outputs"] == []
    assert reply.head == b"application/json"
