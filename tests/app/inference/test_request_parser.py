"""Which function of a policy a request asks, and what cannot be asked of it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app.batching.rule import INITIAL_STATE
from app.errors import DoesNotFit, NotJson, Unsupported
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, LargeRequest, RequestParser, function_of
from app.inputs.options import Options
from app.wire.codecs import JSON, MSGPACK, Codec
from app.wire.limits import FEW_NUMBERS
from saver.artifact import DistributionInfo, Noise, ServingInfo, Signature, TensorInfo
from tests.support.served_policy import policy_of
from tests.support.specs import LSTM_STATE, policy_spec

ROWS = 70_000
ACTION = TensorInfo("int64", (None,))
LOG_PROB = TensorInfo("float32", (None,))
SPEC = policy_spec(state=LSTM_STATE, signatures={"action": Signature({}, {"action": ACTION})})
SAMPLED = Signature({}, {"action": ACTION, "log_prob": LOG_PROB})
ALL = ServingInfo(
    {
        "greedy": Signature({}, {"action": ACTION}),
        "sample": SAMPLED,
        "log_prob": SAMPLED,
        "distribution": Signature({}, {"action/logits": TensorInfo("float32", (None, 2))}),
    },
    {"action": DistributionInfo("categorical", ("logits",), ())},
    Noise(uniform=1, normal=0),
    {},
)
NONE = ServingInfo({}, {}, Noise(0, 0), {"sample": "it draws by itself", "distribution": "it has none"})


def policy(serving: ServingInfo = ALL) -> Policy:
    metrics = SimpleNamespace(outside_bounds=lambda count: None)
    return policy_of(SPEC, serving, rows_limit=ROWS, body_limit_bytes=0, metrics=metrics)


PARSER = RequestParser(ROWS)


def asked(route: str, body: Any, codec: Codec = JSON, of: Policy | None = None) -> InferenceRequest:
    data = json.dumps(body).encode() if codec is JSON else codec.encode(body)
    return PARSER.readers[route](of or policy(), codec, data)


@pytest.mark.parametrize(
    ("options", "function"),
    [
        (Options(), "action"),
        (Options(mode="greedy"), "greedy"),
        (Options(mode="sample"), "sample"),
        (Options(seed=3), "sample"),
        (Options(mode="greedy", seed=3), "greedy"),
        (Options(log_prob=True), "sample"),
        (Options(min_train_step=3, timeout_ms=5), "action"),
    ],
)
def test_options_choose_the_function(options: Options, function: str) -> None:
    assert function_of(policy(), options) == function


def test_what_the_export_lacks_is_refused_with_its_reason() -> None:
    with pytest.raises(Unsupported, match="option seed: policy p has no sample action: it draws by itself"):
        function_of(policy(NONE), Options(seed=3))
    with pytest.raises(Unsupported, match="option log_prob: policy p has none: not for greedy actions"):
        function_of(policy(), Options(mode="greedy", log_prob=True))
    with pytest.raises(Unsupported, match="policy p has no distribution: it has none"):
        asked("distribution", {"observation": [1, 2, 3, 4]}, of=policy(NONE))


@pytest.mark.parametrize("option", [{"mode": "greedy"}, {"seed": 1}, {"log_prob": True}])
def test_distribution_is_not_sampled(option: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="a distribution is not sampled"):
        asked("distribution", {"observation": [1, 2, 3, 4], "options": option})


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_request_becomes_a_job(codec: Codec) -> None:
    options = {"seed": 3, "min_train_step": 7, "timeout_ms": 250}
    request = asked("action", {"observation": [[1, 2, 3, 4]] * 2, "options": options}, codec)
    job = request.job
    assert (job.function, job.rows, job.isolated, job.min_train_step) == ("sample", 2, True, 7)
    assert job.needs_state
    assert request.timeout_s == 0.25
    assert request.batched
    assert job.inputs["noise/uniform"].shape == (2, 1)
    again = asked("action", {"observation": [[1, 2, 3, 4]] * 2, "options": options}, codec)
    assert (again.job.inputs["noise/uniform"] == job.inputs["noise/uniform"]).all()


def test_each_step_of_an_episode_has_noise_of_its_own() -> None:
    one = policy()
    inputs = one.reader.read({"observation": [1, 2, 3, 4]})
    drawn = [
        PARSER.request(one, "sample", inputs, Options(seed=3), one.templates, step).job.inputs["noise/uniform"].item()
        for step in (0, 1, 0)
    ]
    assert drawn[0] == drawn[2] != drawn[1]


def test_initial_states() -> None:
    one = asked("get_initial_state", {})
    assert (one.job.function, one.job.rows, one.batched) == (INITIAL_STATE, 1, False)
    many = asked("get_initial_state", {"batch_size": 3})
    assert (many.job.rows, many.batched) == (3, True)


@pytest.mark.parametrize("body", [{"batch_size": 0}, {"batch_size": ROWS + 1}, {"batch_size": 1.0}, {"rows": 1}])
def test_initial_states_that_cannot_be(body: dict[str, Any]) -> None:
    with pytest.raises(DoesNotFit):
        asked("get_initial_state", body)


def test_answer_that_takes_long_to_write_is_a_large_request() -> None:
    # Two states of three numbers a row.
    kinds = [
        type(asked("get_initial_state", {"batch_size": rows})) for rows in (FEW_NUMBERS // 6, FEW_NUMBERS // 6 + 1)
    ]
    assert kinds == [InferenceRequest, LargeRequest]


def test_what_is_no_object_is_refused_with_an_example() -> None:
    with pytest.raises(NotJson, match="observation"):
        asked("action", [1, 2])


@pytest.mark.parametrize("route", ["action", "distribution"])
def test_large_bodies_are_read_like_small_ones(route: str) -> None:
    one = policy()
    body = json.dumps({"observation": [[1, 2, 3, 4]] * 9}).encode()
    request = PARSER.large(one, route, JSON, body)
    assert request.job.rows == 9
    assert request.job.function == route
    assert PARSER.at_once(one, route, JSON, body) is None  # its skeleton is not known yet
    packed = MSGPACK.encode({"observation": one.reader.read(json.loads(body)).arrays["0/observation"]})
    found = PARSER.at_once(one, route, MSGPACK, packed)
    assert found is not None
    assert found.job.rows == 9
