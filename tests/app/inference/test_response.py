"""Answers by template are byte for byte what the plain encoder makes of the same structure."""

import ml_dtypes
import msgspec
import numpy as np
import pytest

from app.batching.rule import INITIAL_STATE, Result
from app.inference.response import (
    ResponseTemplate,
    action_template,
    distribution_template,
    initial_state_template,
    response_templates,
)
from app.wire import json_body
from app.wire.codecs import MSGPACK
from saver.artifact import DistributionInfo, Leaf, Noise, ServingInfo, Signature
from tests.support.specs import LSTM_STATE, policy_spec

VALUES = [
    np.arange(3, dtype=np.int64),
    np.array([[1, 2], [3, 4]], np.uint8),
    np.array([0.1, 1 / 3], np.float32),
    np.array([[0.1, 1e-30]], np.float32),
    np.array([1 / 3], np.float64),
    np.array([True, False]),
    np.array([1.5, np.nan], np.float32),
    np.array([[np.inf, 1.0]], np.float64),
    np.array([1.5], np.float16),
    np.array([1.5], ml_dtypes.bfloat16),
    np.array([b"up", b"\xff"], object),
    np.array([2**64 - 1], np.uint64),
    np.broadcast_to(np.float32([1, 2]), (3, 2)),
    np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    np.zeros((2, 0), np.float32),
]


def result(**outputs: np.ndarray) -> Result:
    return Result(outputs, 'step "7"', 700)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value.dtype}{list(value.shape)}")
def test_every_kind_of_output_is_written_as_it_should_be(value: np.ndarray, batched: bool) -> None:
    template = ResponseTemplate(
        lambda value_of: {"é": {"x": value_of("x"), "list": [value_of("y"), 1, None, []]}, "empty": {}}
    )
    filled = result(x=value if batched else value[:1], y=np.array([7]))
    assert template.json(filled, batched) == json_body.encode(template.structure(filled, batched))


def test_version_stands_at_the_end() -> None:
    template = ResponseTemplate(lambda value: {"action": value("action")})
    assert (
        template.json(result(action=np.array([3])), False) == b'{"action":3,"version":"step \\"7\\"","train_step":700}'
    )


def test_initial_state_names_no_version() -> None:
    template = initial_state_template(policy_spec(state=LSTM_STATE))
    outputs = {"0": np.zeros((1, 3), np.float32), "1": np.ones((1, 3), np.float32)}
    assert template.json(result(**outputs), False) == b'{"policy_state":[[0.0,0.0,0.0],[1.0,1.0,1.0]]}'
    assert initial_state_template(policy_spec()).json(result(), False) == b'{"policy_state":[]}'


def test_action_has_state_and_log_probability_where_there_are_any() -> None:
    spec = policy_spec(state=LSTM_STATE)
    outputs = {
        "action": np.array([1, 0]),
        "log_prob": np.float32([-0.5, -1]),
        "state/0": np.eye(3)[:2],
        "state/1": np.eye(3)[:2],
    }
    template = action_template(spec, outputs, log_prob=True)
    assert list(template.structure(result(**outputs), True)) == [
        "action",
        "log_prob",
        "policy_state",
        "version",
        "train_step",
    ]
    assert list(action_template(spec, {"action": 1}, log_prob=False).structure(result(**outputs), True)) == [
        "action",
        "version",
        "train_step",
    ]


def serving(**outputs: list[str]) -> ServingInfo:
    signatures = {name: Signature({}, dict.fromkeys(names)) for name, names in outputs.items()}  # type: ignore[arg-type]
    info = DistributionInfo("normal", ("loc", "scale"), ("mode",), {"base": {"family": "x"}})
    return ServingInfo(signatures, {"action": info}, Noise(0, 1), {})


def test_distribution_names_family_parameters_and_statistics() -> None:
    template = distribution_template(policy_spec(), serving(distribution=[]))
    outputs = {f"action/{name}": np.float32([[0.5, 1.5]]) for name in ("loc", "scale", "mode")}
    assert template.json(result(**outputs), True) == (
        b'{"distribution":{"family":"normal","base":{"family":"x"},"parameters":{"loc":[[0.5,1.5]],"scale":[[0.5,1.5]]},'
        b'"mode":[[0.5,1.5]]},"version":"step \\"7\\"","train_step":700}'
    )


def test_there_is_a_form_for_every_function_that_a_policy_has() -> None:
    spec = policy_spec(action=Leaf("action", "int64", ()), signatures={"action": Signature({}, {"action": None})})  # type: ignore[dict-item]
    templates = response_templates(
        spec, serving(distribution=[], sample=["action", "log_prob"], greedy=["action"], log_prob=[])
    )
    assert set(templates) == {
        (INITIAL_STATE, False),
        ("action", False),
        ("distribution", False),
        ("greedy", False),
        ("sample", False),
        ("sample", True),
    }


def test_a_single_string_is_text_in_every_codec() -> None:
    template = ResponseTemplate(lambda value: {"action": value("action")}, with_version=False)
    up = result(action=np.array([b"up"], object))
    assert template.json(up, False) == b'{"action":"up"}'
    assert msgspec.msgpack.decode(MSGPACK.encode(template.structure(up, False))) == {"action": "up"}
