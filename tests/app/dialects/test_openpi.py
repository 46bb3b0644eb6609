"""OpenPI's messages become fields of our own route, by any of their names; one of a known kind is read by its bytes."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from app.dialects.openpi import Kind, Message, MessageReader, actions_of, metadata, reset_answer
from app.dialects.openpi_arrays import encode
from app.errors import DoesNotFit
from app.inputs.arrays import ArrayReader
from app.inputs.options import Options
from app.versions.lease import VersionInfo
from saver.artifact import Leaf, Nest, Noise, ServingInfo, Signature, TensorInfo
from tests.support.served_policy import policy_of
from tests.support.specs import FLOATS_4, LSTM_STATE, NESTED, policy_spec

NUMBERS = np.array([1, 2, 3, 4], np.float32)
ACTION: Any = {"action": Signature({}, {"action": TensorInfo("int64", (None,))})}
SERVING = ServingInfo({}, {}, Noise(0, 0), {"distribution": "none"})
VERSIONS = SimpleNamespace(active=SimpleNamespace(version=VersionInfo("step-7", "d", 7)))


def policy(observation: Nest, state: Nest = ()) -> Any:
    return policy_of(policy_spec(observation, state, signatures=ACTION), SERVING, rows_limit=8, versions=VERSIONS)


FLAT, NEST = policy(FLOATS_4), policy(NESTED)


def read(served: Any = FLAT, /, **values: Any) -> Message:
    return MessageReader(served).read(encode(values))


def refusal(served: Any = FLAT, /, **values: Any) -> str:
    with pytest.raises(DoesNotFit) as refused:
        read(served, **values)
    return str(refused.value)


def test_a_message_that_is_no_map_of_names_is_the_observation() -> None:
    message = MessageReader(FLAT).read(encode(NUMBERS))
    assert (message.resets, message.session_id, message.seed) == (False, None, None)
    assert message.fields["observation"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["observation", "0/observation"])
def test_fields_come_under_any_of_their_names(name: str) -> None:
    assert list(read(**{name: NUMBERS, "step_type": 1}).fields) == [name, "step_type"]


def test_the_observations_own_keys_are_gathered() -> None:
    message = read(NEST, camera=np.zeros((2, 2), np.uint8), speed=0.5, reward=1.0)
    assert message.fields["reward"] == 1.0
    assert list(message.fields["observation"]) == ["camera", "speed"]


def test_a_path_inside_the_observation_is_that_part_of_it() -> None:
    assert read(NEST, **{"joints/0": 1}).fields == {"observation/joints/0": 1}


def test_an_observation_is_not_given_twice() -> None:
    assert "observation: is given twice, also as speed; expected one of the two" in refusal(
        NEST, speed=0.5, observation={"speed": 0.5}
    )


def test_the_refusal_of_an_unknown_name_lists_those_that_there_are() -> None:
    assert refusal(NEST, wrist=1, arm=2) == (
        "wrist: is no field of this policy; expected one of camera, speed, joints/0, joints/1, joints, "
        "options, endpoint, session_id, seed, prompt; 1 more error"
    )


def test_an_observation_may_have_a_key_of_the_protocols_own_name() -> None:
    served = policy({"seed": Leaf("0/observation/seed", "int64", ()), "x": Leaf("0/observation/x", "float32", ())})
    assert read(served, seed=-5, session_id="a") == Message(False, "a", None, {"observation": {"seed": -5}})


def test_what_belongs_to_the_protocol_is_no_field() -> None:
    message = read(observation=1, prompt="fold the towel", endpoint="infer", session_id="run 3")
    assert message == Message(False, "run 3", None, {"observation": 1})


def test_the_seed_of_a_step_is_an_option_and_that_of_a_reset_is_the_episodes() -> None:
    assert read(observation=1, seed=5) == Message(False, None, None, {"observation": 1, "options": {"seed": 5}})
    assert read(seed=5, options={"mode": "greedy"}).fields == {"options": {"mode": "greedy", "seed": 5}}
    assert read(endpoint="reset", seed=5, session_id="a", observation=1) == Message(True, "a", 5, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoint": "train"}, 'endpoint: the string \'train\'; expected "infer" or "reset"'),
        ({"session_id": 3}, "session_id: 3; expected a string of at most 200 characters"),
        ({"session_id": "x" * 201}, "session_id: "),
        ({"seed": -1}, "seed: -1; expected an integer from 0 to 2^63 - 1"),
        ({"seed": 2**63}, "seed: "),
        ({"seed": True}, "seed: "),
        ({"seed": 1, "options": {"seed": 1}}, "seed: is given twice, also in options; expected one of the two"),
        ({"seed": 1, "options": [1]}, "seed: is given twice, also in options"),
    ],
)
def test_what_the_protocol_does_not_have_is_refused(values: dict[str, Any], message: str) -> None:
    assert message in refusal(**values)


def test_the_first_message_says_what_an_observation_needs() -> None:
    served = policy(NESTED, LSTM_STATE)
    found = msgspec.msgpack.decode(metadata(served, MessageReader(served).inputs))
    assert found["inputs"] == {
        "camera": {"dtype": "uint8", "shape": [2, 2]},
        "speed": {"dtype": "float32", "shape": []},
        "joints/0": {"dtype": "float32", "shape": [2]},
        "joints/1": {"dtype": "int32", "shape": []},
    }
    assert (found["policy"], found["version"], found["train_step"]) == ("p", "step-7", 7)
    assert MessageReader(FLAT).inputs == {"observation": {"dtype": "float32", "shape": [4]}}


def test_a_reset_is_answered_with_the_version_that_serves() -> None:
    assert msgspec.msgpack.decode(reset_answer(FLAT)) == {"reset": True, "version": "step-7", "train_step": 7}


def test_an_answer_has_the_action_under_both_names_and_no_policy_state() -> None:
    answer = {"action": NUMBERS, "policy_state": NUMBERS, "log_prob": 0.5, "version": "v"}
    found = msgspec.msgpack.decode(encode(actions_of(answer, 1.5, encode)))
    assert found["action"] == found["actions"] == msgspec.msgpack.decode(encode(NUMBERS))
    assert found["server_timing"] == {"infer_ms": 1.5}
    assert (found["log_prob"], found["version"]) == (0.5, "v")
    assert "policy_state" not in found


def kind_of(body: bytes) -> tuple[Kind | None, ArrayReader]:
    message = MessageReader(FLAT).read(body)
    inputs = FLAT.reader.read(message.fields)
    return Kind.of(body, inputs, Options()), ArrayReader(FLAT.spec, 8)


@pytest.mark.parametrize("batched", [True, False])
def test_a_message_of_a_known_kind_is_read_as_the_validator_reads_it(batched: bool) -> None:
    first, other = (encode({"observation": NUMBERS[None] * n if batched else NUMBERS * n}) for n in (1, 2))
    kind, reader = kind_of(first)
    assert kind is not None
    found = kind.read(other, reader)
    assert found is not None
    inputs, options = found
    wanted = FLAT.reader.read(MessageReader(FLAT).read(other).fields)
    assert inputs.arrays["0/observation"].tolist() == wanted.arrays["0/observation"].tolist() == [[2, 4, 6, 8]]
    assert (inputs.rows, inputs.batched, options) == (wanted.rows, wanted.batched, Options()) == (1, batched, Options())


def test_a_message_that_differs_in_anything_but_its_numbers_is_of_another_kind() -> None:
    first = encode({"prompt": "fold", "observation": NUMBERS})
    kind, reader = kind_of(first)
    assert kind is not None
    assert kind.read(first, reader) is not None
    for other in (
        encode({"prompt": "pick", "observation": NUMBERS}),
        encode({"prompt": "fold", "observation": NUMBERS.astype(np.int32)}),
        encode({"prompt": "fold", "observation": NUMBERS.reshape(2, 2)}),
        first + b"\x00",
        first[:-1],
        b"",
    ):
        assert kind.read(other, reader) is None


def test_numbers_that_need_a_closer_look_are_left_to_the_validator() -> None:
    kind, reader = kind_of(encode({"observation": NUMBERS}))
    assert kind is not None
    assert kind.read(encode({"observation": NUMBERS * np.nan}), reader) is None


@pytest.mark.parametrize("observation", [[1, 2, 3, 4], NUMBERS.astype(np.float64)], ids=["list", "double"])
def test_inputs_that_do_not_lie_in_the_message_have_no_kind(observation: Any) -> None:
    assert kind_of(encode({"observation": observation}))[0] is None
