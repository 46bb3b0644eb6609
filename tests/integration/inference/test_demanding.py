"""Exports that refuse made-up inputs, or answer them with NaN, or take one row a call: they are served all the same.

Written by TF-Agents' own saver, and the first ones by ours too; each answers as it does in process.
"""

import json
import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver

from saver import PolicySaver
from tests.support import demanding
from tests.support.saver_policies import q
from tests.support.server import RunningServer, serving

MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/json"}
EXAMPLE = tf.train.Example(
    features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5]))})
).SerializeToString()
JPEG = tf.io.encode_jpeg(np.full((8, 8, 3), 100, np.uint8)).numpy()
# Kind → (an observation that it takes, its action), (one that it refuses, part of what it says; or its answer).
ASKED: dict[str, tuple[tuple[Any, float], tuple[Any, str]]] = {
    "logarithm": ((math.e, 1.0), (-1.0, "NaN")),
    "root": ((9.0, 2.0), (1.0, "NaN")),
    "integer quotient": ((7, 14.0), (0, "division by zero")),
    "asserts": ((3.0, 3.0), (1.0, "the observation has to be above 2")),
    "far ids": ((1002, 0.3), (5, "gather")),
    "some ids": ((0, 0.25), (1, "gather")),
    "numbers in text": (("1.5", 1.5), ("one", "could not correctly convert string: one")),
    "serialized examples": ((EXAMPLE, 0.5), (b"", "is required but could not be found")),
    "JSON": (('{"features":{"feature":{"x":{"floatList":{"value":[0.5]}}}}}', 0.5), ("{", "JSON")),
    "images": ((JPEG, 100.0), (b"no image", "image")),
    "compressed": ((zlib.compress(np.float32(0.25).tobytes()), 0.25), (b"plain", "inflate")),
    "raw bytes": ((np.float32(0.25).tobytes(), 0.25), (b"", "action has 0 rows for 1 of its inputs")),
    "lines": (("1.5", 1.5), ("1\n2", "action has 2 rows for 1 of its inputs")),
    "left out": ((0.25, 0.25), (1.0, "action has 0 rows for 1 of its inputs")),
    "one row": ((2.0, 2.0), (None, "")),
}
OURS = ("logarithm", "numbers in text", "one row")
GIVEN = {"far-ids": [{"observation": 1001}, {"observation": [1000, 1002]}], "asserts": [{"observation": 2.5}]}


def named(kind: str) -> str:
    return kind.replace(" ", "-")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demanding")
    made = {}
    for kind, make in demanding.MAKERS.items():
        policy = make()
        made[named(kind)] = folder / named(kind)
        policy_saver.PolicySaver(policy, batch_size=None).save(str(made[named(kind)]))
        if kind in OURS:
            made[f"our-{named(kind)}"] = folder / f"our-{named(kind)}"
            PolicySaver(policy).save(made[f"our-{named(kind)}"], verify=False)  # for time: tests/saver looks at that
    made["no-time-step"] = folder / "no-time-step"
    without_time_step = policy_saver.PolicySaver(q(), input_fn_and_spec=demanding.text_input(), batch_size=None)
    without_time_step.save(str(made["no-time-step"]))
    made["python"] = folder / "python"
    python = demanding.Demanding(demanding.NUMBER, lambda weight, observation, _: weight * halved(observation))
    policy_saver.PolicySaver(python, batch_size=None).save(str(made["python"]))
    return made


def halved(observation: tf.Tensor) -> tf.Tensor:
    """By code of this process, which no export holds."""
    half = tf.numpy_function(lambda array: array / 2, [observation], tf.float32)
    return tf.ensure_shape(half, observation.shape)


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    probes = tmp_path_factory.mktemp("probes") / "probes.json"
    probes.write_text(json.dumps(GIVEN))
    with serving(folders, "--probe-inputs", str(probes)) as running:
        yield running


def ask(server: RunningServer, policy: str, observation: Any) -> Any:
    """Bytes that are no text travel as msgpack."""
    body = msgspec.msgpack.encode({"observation": observation})
    headers = MSGPACK if isinstance(observation, bytes) else {}
    content = body if headers else json.dumps({"observation": observation})
    return server.http.post(f"/v1/policies/{policy}/action", content=content, headers=headers)


@pytest.mark.parametrize("policy", [*map(named, ASKED), *(f"our-{named(kind)}" for kind in OURS)])
def test_what_a_policy_takes_is_answered_and_what_it_refuses_gets_its_own_message(server, policy):
    kind = next(kind for kind in ASKED if policy in (named(kind), f"our-{named(kind)}"))
    (good, action), (bad, says) = ASKED[kind]
    answer = ask(server, policy, good)
    assert (answer.status_code, answer.json().get("action")) == (200, pytest.approx(action, rel=1e-5)), answer.text
    if bad is None:
        return
    refusal = ask(server, policy, bad)
    if says == "NaN":
        assert refusal.json()["action"] == "NaN"
        return
    assert refusal.status_code == 422, refusal.text
    assert says in refusal.json()["detail"]
    assert "the policy refused it" in refusal.json()["detail"]


def test_a_refusal_names_the_fields_of_an_export_without_time_steps(server):
    path = "/v1/policies/no-time-step/action"
    assert server.http.post(path, json={"text": "1,2,3,4"}).status_code == 200
    refused = server.http.post(path, json={"text": "1,2,3,four"})
    assert refused.status_code == 422
    [problem] = refused.json()["errors"]
    assert problem["where"] == "text"
    assert problem["problem"].startswith("the policy refused it: ")
    assert "four" in problem["problem"]


def test_a_policy_that_runs_python_code_says_that_it_cannot(server):
    answer = ask(server, "python", 1.0)
    assert answer.status_code == 501
    assert "action runs Python code (numpy_function or py_function)" in answer.json()["detail"]
    assert server.http.get("/v1/policies/python").json()["probe_inputs"]["answered"] == 0


@pytest.mark.parametrize("policy", ["one-row", "our-one-row"])
def test_a_policy_that_takes_one_row_a_call_answers_many_row_by_row(server, policy):
    body = {"observation": [1.0, 2.0, 3.0], "policy_state": [10.0, 20.0, 30.0]}
    answer = server.http.post(f"/v1/policies/{policy}/action", json=body).json()
    assert (answer["action"], answer["policy_state"]) == ([11.0, 22.0, 33.0], [11.0, 21.0, 31.0])
    described = server.http.get(f"/v1/policies/{policy}").json()
    assert (described["engine"], described["engine_reason"]) == ("tensorflow", "it answers one row a call only")
    first = server.http.post(f"/v1/policies/{policy}/action", json={"observation": [1.0, 2.0]}).json()
    assert (first["action"], first["policy_state"]) == ([1.0, 2.0], [1.0, 1.0])
    asked = [{"observation": float(i), "policy_state": 100.0 * i} for i in range(32)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: server.http.post(f"/v1/policies/{policy}/action", json=body), asked))
    assert [answer.json()["action"] for answer in answers] == [101.0 * i for i in range(32)]


def test_what_one_caller_gets_refused_is_no_matter_of_the_others_in_its_batch(server):
    def one(number: int) -> bool:
        answer = ask(server, "asserts", float(number))
        if number > 2:
            return answer.status_code == 200 and answer.json()["action"] == float(number)
        return answer.status_code == 422

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, [number % 6 for number in range(300)]))


def test_the_description_says_what_happened_on_which_input(server):
    described = server.http.get("/v1/policies/logarithm").json()
    assert described["engine"] == "litert"
    assert described["probe_inputs"] == {
        "asked": 4,
        "answered": 2,
        "problems": [
            "probe input 1 (observation -1.): action is not finite",
            "probe input 2 (observation -0.33333334): action is not finite",
        ],
    }
    described = server.http.get("/v1/policies/numbers-in-text").json()
    assert (described["engine"], described["probe_inputs"]["answered"]) == ("tensorflow", 0)
    assert described["engine_reason"].startswith("no probe input is answered, so that LiteRT's answers cannot be")
    assert "could not correctly convert string" in described["engine_reason"]


def test_probe_inputs_from_a_file_prove_what_made_up_ones_cannot(server):
    described = server.http.get("/v1/policies/far-ids").json()
    assert (described["engine"], described["engine_reason"]) == ("litert", "proved equal to TensorFlow on probe inputs")
    assert (described["probe_inputs"]["asked"], described["probe_inputs"]["answered"]) == (7, 3)
    described = server.http.get("/v1/policies/asserts").json()
    assert described["engine_reason"] == "action may refuse inputs by an assertion, and LiteRT would answer them"
    assert (described["probe_inputs"]["asked"], described["probe_inputs"]["answered"]) == (5, 1)


def test_starting_says_what_it_is_at(server):
    lines = [line for line in server.lines if " policy_server.start: " in line]
    text = "\n".join(lines)
    for expected in ("logarithm: opens ", "logarithm: loaded in ", "logarithm: probe inputs asked in "):
        assert expected in text
    for expected in ("logarithm: compiled in ", "logarithm: compared with TensorFlow in ", "logarithm: opened in "):
        assert expected in text
    assert "1 worker loads what serves" in lines[-1]
    assert any("logarithm: export answers 2 of 4 probe inputs" in line for line in server.lines)


def test_a_checkpoint_is_not_refused_for_what_the_version_before_it_failed_on_too(server, folders):
    policy = demanding.MAKERS["logarithm"]()
    policy.weight.assign(2.0)
    saver = policy_saver.PolicySaver(policy, batch_size=None)
    saver.save_checkpoint(str(folders["logarithm"] / "checkpoints" / "0000000001"))
    reloaded = server.reload("logarithm", checkpoint="0000000001")
    assert reloaded.status_code == 200, reloaded.text
    assert ask(server, "logarithm", math.e).json()["action"] == pytest.approx(2.0)
