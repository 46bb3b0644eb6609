"""A real server asked as TensorFlow Serving is: by its documented requests, and beside our own route."""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.integration.dialects.tensorflow_serving_table import ROW, TABLE, Documented
from tests.support.server import RunningServer, serving


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Those of the table at train step 800; an image policy, and one that TF-Agents' own PolicySaver has exported."""
    from saver import PolicySaver
    from tests.support import policies
    from tests.zoo import kinds

    folder = tmp_path_factory.mktemp("models")
    numbers = {
        "number": policies.NumberTrainer(folder / "number"),
        "counting": policies.NumberTrainer(folder / "counting", kind_of_policy=policies.CountingPolicy),
        "plain": policies.NumberTrainer(folder / "plain", plain=True, kind_of_policy=policies.CountingPolicy),
    }
    PolicySaver(kinds.make(kinds.KINDS["observation-image"], 3)).save(str(folder / "image"), verify=False)
    names = [*numbers, "image"]
    with serving({name: folder / name for name in names}, "--no-watch", "--non-finite", "accept") as running:
        for name, trainer in numbers.items():
            running.reload(name, checkpoint=trainer.publish(800)).raise_for_status()
        yield running


@pytest.mark.parametrize("documented", TABLE, ids=lambda documented: documented.title)
def test_documented_requests_are_answered_as_documented(models: RunningServer, documented: Documented) -> None:
    body = documented.body if isinstance(documented.body, bytes | None) else json.dumps(documented.body).encode()
    response = models.http.request(documented.method, documented.path, content=body)
    assert response.status_code == documented.status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    if documented.status == 200:
        if "model_version_status" in answer:  # the version before may still end
            answer["model_version_status"] = answer["model_version_status"][:1]
        assert answer == documented.answer
    else:
        assert answer.keys() == {"error"}
        assert answer["error"].startswith(documented.answer)


@pytest.mark.parametrize("path", ["number:predict", "number/versions/800:predict", "number:PREDICT"])
def test_the_version_that_has_answered_stands_in_the_head(models: RunningServer, path: str) -> None:
    response = models.http.post(f"/v1/models/{path}", json={"instances": [ROW]})
    assert response.headers["policy-version"] == "0000000800"
    assert response.headers["policy-train-step"] == "800"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json; charset=utf-8", "application/msgpack", "x/y"]
)
def test_any_content_type_is_taken_for_json(models: RunningServer, content_type: str) -> None:
    headers = {"content-type": content_type, "accept": "application/msgpack"}
    response = models.http.post("/v1/models/number:predict", content=b'{"instances":[[3,0,0,0]]}', headers=headers)
    assert (response.status_code, response.content) == (200, b'{"predictions":[[800003,800003]]}')
    assert response.headers["content-type"] == "application/json"


def test_a_plain_export_is_served_alike(models: RunningServer) -> None:
    body = {"signature_name": "action", "instances": [{"0/observation": ROW}, {"0/observation": ROW}]}
    plain = models.http.post("/v1/models/plain:predict", json=body).raise_for_status()
    ours = models.http.post("/v1/models/counting:predict", json=body).raise_for_status()
    assert plain.json() == ours.json()
    described = [models.http.get(f"/v1/models/{name}/metadata").json() for name in ("plain", "counting")]
    action = [one["metadata"]["signature_def"]["signature_def"]["action"] for one in described]
    assert action[0] == action[1]


def test_metadata_has_the_signatures_of_the_policy(models: RunningServer) -> None:
    for path in ("counting", "counting/versions/800", "counting/labels/latest"):
        shown = models.http.get(f"/v1/models/{path}/metadata").raise_for_status().json()
        assert shown["model_spec"] == {"name": "counting", "signature_name": "", "version": "800"}
        signatures = shown["metadata"]["signature_def"]["signature_def"]
        assert signatures.keys() >= {"action", "get_initial_state", "get_train_step", "get_metadata"}
        action = signatures["action"]
        assert action["method_name"] == "tensorflow/serving/predict"
        assert set(action["inputs"]) == {
            "0/step_type", "0/reward", "0/discount", "0/observation", "1/last", "1/steps",
        }  # fmt: skip
        assert action["inputs"]["0/observation"] == {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}], "unknown_rank": False},
            "name": "action_0/observation:0",
        }
        assert {name: one["dtype"] for name, one in action["outputs"].items()} == {
            "action": "DT_INT64",
            "state/last": "DT_FLOAT",
            "state/steps": "DT_INT64",
        }
        assert signatures["get_initial_state"]["inputs"]["batch_size"]["tensor_shape"]["dim"] == []


def test_numbers_that_are_not_finite_are_bare_words_both_ways(models: RunningServer) -> None:
    body = b'{"instances": [[1e38, NaN, Infinity, -Infinity]]}'
    answer = models.http.post("/v1/models/counting:predict", content=body).raise_for_status()
    assert b'"state/last":[Infinity]' in answer.content
    back = b'{"inputs": {"0/observation": [[1, 0, 0, 0]], "1/last": [[Infinity]], "1/steps": [1]}}'
    assert models.http.post("/v1/models/counting:predict", content=back).json()["outputs"]["state/steps"] == [2]


def test_numbers_that_are_not_finite_are_refused_where_our_own_route_refuses_them(server: RunningServer) -> None:
    response = server.http.post("/v1/models/cartpole:predict", content=b'{"instances": [[NaN, 0, 0, 0]]}')
    assert response.status_code == 400
    assert "NaN; expected a finite number" in response.json()["error"]
    assert server.http.post("/action", content=b'{"observation": [NaN, 0, 0, 0]}').status_code == 422


# Beside our own route.

FLOATS = ("cartpole", "recurrent", "boltzmann", "continuous", "informed", "unnested", "fixed")


def observations(policy: str, rows: int) -> list[Any]:
    draw = np.random.default_rng(rows)
    if policy == "image":
        return draw.integers(0, 256, (rows, 8, 8, 3)).tolist()
    floats = draw.normal(size=(rows, 4)).astype(np.float32).tolist()
    if policy != "nested":
        return floats
    cameras = draw.integers(0, 200, (rows, 2, 3)).tolist()
    return [{"camera": camera, "body": [row[:3], 1]} for camera, row in zip(cameras, floats, strict=True)]


def named(policy: str, observation: Any) -> dict[str, Any]:
    """One observation by flattened names."""
    if policy == "nested":
        left, gear = observation["body"]
        camera = {"0/observation/camera": observation["camera"]}
        return camera | {"0/observation/body/0": left, "0/observation/body/1": gear}
    return {"observation" if policy == "unnested" else "0/observation": observation}


def flat(prefix: str, value: Any) -> dict[str, Any]:
    """The leaves of a part of our own answer, by flattened name. States and infos are lists, or objects, of leaves."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {f"{prefix}/{key}": child for key, child in items}


def own_answer(server: RunningServer, policy: str, rows: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Columns by flattened name, as our own route gives them."""
    columns = rows
    if policy == "nested":
        columns = {
            "camera": [row["camera"] for row in rows],
            "body": [[row["body"][0] for row in rows], [row["body"][1] for row in rows]],
        }  # type: ignore[assignment]
    body = {"observation": columns, **({"options": options} if options else {})}
    answer = server.http.post(f"/v1/policies/{policy}/action", json=body).raise_for_status().json()
    found = {"action": answer["action"]}
    if "log_prob" in answer:
        found["log_prob"] = answer["log_prob"]
    found |= flat("state", answer.get("policy_state", []))
    return found | flat("info", answer.get("info", {}))


SEEDED = ("boltzmann", "continuous")
ASKED = [(policy, {}) for policy in (*FLOATS, "nested") if policy not in SEEDED]
ASKED += [(policy, {"seed": 7, "log_prob": True}) for policy in SEEDED] + [("continuous", {"mode": "greedy"})]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("policy", "options"), [*ASKED, ("image", {})])
def test_answers_are_those_of_our_own_route(
    request: pytest.FixtureRequest, policy: str, options: dict[str, Any], rows: int
) -> None:
    server = request.getfixturevalue("models" if policy == "image" else "server")
    given = observations(policy, rows)
    wanted = own_answer(server, policy, given, options)
    more = {"options": options} if options else {}
    instances = [named(policy, row) for row in given]
    inputs = {name: [row[name] for row in instances] for name in instances[0]}
    bodies = [{"instances": instances}, {"inputs": inputs}, {"signature_name": "action", "inputs": inputs}]
    if policy != "nested":
        bodies += [{"instances": given}, {"inputs": given}]
    for body in bodies:
        answer = server.http.post(f"/v1/models/{policy}:predict", json=body | more)
        assert answer.status_code == 200, answer.text
        assert as_columns(answer.json()) == wanted, body


def as_columns(answer: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an answer by name; one alone is the action."""
    if "outputs" in answer:
        found = answer["outputs"]
        return found if isinstance(found, dict) else {"action": found}
    rows = answer["predictions"]
    if not isinstance(rows[0], dict):
        return {"action": rows}
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("policy", ["recurrent", "nested"])
def test_an_episode_goes_on_from_the_state_in_its_answers(server: RunningServer, policy: str) -> None:
    rows = observations(policy, 4)
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for row in rows:
        body = {"observation": row, **ours}
        answer = server.http.post(f"/v1/policies/{policy}/action", json=body).raise_for_status().json()
        ours = {"policy_state": answer["policy_state"]}
        instance = named(policy, row) | theirs
        (found,) = server.http.post(f"/v1/models/{policy}:predict", json={"instances": [instance]}).json()[
            "predictions"
        ]
        assert found["action"] == answer["action"]
        theirs = {name.replace("state/", "1/"): value for name, value in found.items() if name.startswith("state/")}
        assert list(theirs.values()) == answer["policy_state"]


@pytest.mark.parametrize("policy", ["boltzmann", "continuous", "recurrent", "informed"])
def test_distributions_are_those_of_our_own_route(server: RunningServer, policy: str) -> None:
    rows = observations(policy, 2)
    own = server.http.post(f"/v1/policies/{policy}/distribution", json={"observation": rows}).raise_for_status().json()
    leaf = own["distribution"]
    body = {"signature_name": "distribution", "inputs": rows}
    found = server.http.post(f"/v1/models/{policy}:predict", json=body).raise_for_status().json()["outputs"]
    wanted = {f"action/{name}": value for name, value in leaf["parameters"].items()}
    wanted |= {f"action/{name}": leaf[name] for name in ("mode", "mean", "stddev", "entropy") if name in leaf}
    assert found == wanted | flat("state", own.get("policy_state", [])) | flat("info", own.get("info", {}))


@pytest.mark.parametrize("policy", ["recurrent", "fixed"])
def test_initial_states_are_those_of_our_own_route(server: RunningServer, policy: str) -> None:
    own = server.http.post(f"/v1/policies/{policy}/get_initial_state", json={"batch_size": 3}).json()["policy_state"]
    body = {"signature_name": "get_initial_state", "inputs": {"batch_size": 3}}
    assert server.http.post(f"/v1/models/{policy}:predict", json=body).json()["outputs"] == dict(
        zip("01", own, strict=True)
    )


def test_a_policy_of_a_fixed_batch_size_has_states_for_so_many_rows(server: RunningServer) -> None:
    body = {"signature_name": "get_initial_state", "inputs": {}}
    outputs = server.http.post("/v1/models/fixed:predict", json=body).raise_for_status().json()["outputs"]
    assert np.shape(outputs["0"]) == (3, 8)


def test_all_metadata_are_answered(server: RunningServer) -> None:
    """Two of one dtype, of which TF-Agents' own signature would lose one."""
    body = {"signature_name": "get_metadata", "inputs": {}}
    answer = server.http.post("/v1/models/cartpole:predict", json=body).raise_for_status()
    assert answer.json() == {"outputs": {"episodes": 5, "frames": 6}}
    assert server.http.get("/v1/policies/cartpole/metadata").json()["metadata"] == answer.json()["outputs"]


@pytest.mark.parametrize("form", ["rows", "columns", "only"])
def test_large_requests_are_answered_as_our_own_route_answers_them(server: RunningServer, form: str) -> None:
    rows = observations("cartpole", 30_000)
    own = server.http.post("/action", json={"observation": rows}).raise_for_status().json()["action"]
    body = {
        "rows": {"instances": [{"0/observation": row} for row in rows]},
        "columns": {"inputs": {"0/observation": rows}},
        "only": {"instances": rows},
    }[form]
    answer = server.http.post("/v1/models/cartpole:predict", json=body).raise_for_status().json()
    assert next(iter(answer.values())) == own


def test_compressed_and_chunked_bodies_are_read(server: RunningServer) -> None:
    import gzip

    body = json.dumps({"instances": [[0.1, 0.0, 0.0, 0.0]]}).encode()
    wanted = server.http.post("/v1/models/cartpole:predict", content=body).content
    zipped = server.http.post(
        "/v1/models/cartpole:predict", content=gzip.compress(body), headers={"content-encoding": "gzip"}
    )
    assert zipped.content == wanted
    assert server.http.post("/v1/models/cartpole:predict", content=iter([body[:9], body[9:]])).content == wanted


def test_requests_are_counted_and_share_batches_with_our_own(server: RunningServer) -> None:
    def counted(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    label = 'policy_server_answers_total{policy="cartpole",route="tensorflow_serving",status='
    before = [counted(f'{label}"{status}"') for status in (200, 400)]
    server.http.post("/v1/models/cartpole:predict", json={"instances": [[0.1, 0, 0, 0]]}).raise_for_status()
    server.http.post("/v1/models/cartpole:PREDICT", json={"instances": [[0.1, 0, 0, 0]]}).raise_for_status()
    server.http.post("/v1/models/cartpole:predict", json={"instances": [[0.1]]})
    server.http.post("/v1/models/cartpole:classify", json={})
    after = [counted(f'{label}"{status}"') for status in (200, 400)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]


# Whatever may come.

PIECES = [
    b"1e999", b"-0", b"1" * 400, b"null", b"true", b"[" * 300, b"[" * 3000, b"{" * 50, b'"', b"\xff\xfe", b"NaN",
    b'{"b64":"AA=="}', b'"instances"', b'"inputs"', b'"signature_name":"get_metadata",', b'"signature_name":[],',
    b'"options":{"seed":-1},', b'"0/reward":[1,2],', b'{"0/observation":', b"[[[[", b"]", b"}", b",", b"\\u0000",
    b"1e39", b"9" * 30, b'"x":{},',
]  # fmt: skip
PATHS = [
    "/v1/models/cartpole:predict", "/v1/models/nested:predict", "/v1/models/recurrent/versions/11:predict",
    "/v1/models/fixed/labels/latest:predict", "/v1/models/informed:PREDICT", "/v1/models/cartpole/versions/99:predict",
    "/v1/models/%63artpole:predict", "/v1/models/cart%2Fpole:predict", "/v1/models/%ff:predict", "/v1/models/:predict",
    "/v1/models/a:b:predict", "/v1/models//versions/1:predict", "/v1/models/cartpole:classify", "/v1/modelsx",
    "/v1/models/cartpole/versions/%D9%A1:predict", "/v1/models/cartpole:predict/", "/v1/models/cartpole:predict?x=1",
]  # fmt: skip
GOOD = [
    {"instances": [[0.1, 0.0, 0.0, 0.0]]},
    {"signature_name": "action", "instances": [{"0/observation": [0.1, 0.0, 0.0, 0.0], "0/reward": 1.0}]},
    {"inputs": {"0/observation": [[0.1, 0.0, 0.0, 0.0]], "0/step_type": [1]}},
    {"signature_name": "distribution", "inputs": [[0.1, 0.0, 0.0, 0.0]], "options": {"timeout_ms": 50_000}},
    {"signature_name": "get_initial_state", "inputs": {"batch_size": 3}},
    {"signature_name": "get_train_step", "inputs": {}},
]
EXPECTED = {200, 400, 404, 413, 501}


def test_whatever_comes_is_answered_or_refused_and_harms_nobody(server: RunningServer, full: bool) -> None:
    draw = random.Random(18)
    seen: dict[int, int] = {}
    for _ in range(20_000 if full else 1000):
        body = bytearray(json.dumps(draw.choice(GOOD)).encode())
        for _ in range(draw.randint(0, 3)):
            place = draw.randrange(len(body) + 1)
            body[place : place + draw.randint(0, 6)] = draw.choice(PIECES)
        path = draw.choice(PATHS) if draw.random() < 0.3 else PATHS[0]
        method = "POST" if draw.random() < 0.95 else draw.choice(["GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"])
        response = server.http.request(method, path, content=bytes(body))
        assert response.status_code in EXPECTED, (method, path, bytes(body)[:300], response.text[:300])
        if response.status_code != 200 and method != "HEAD":
            assert response.json().keys() == {"error"}, (path, bytes(body)[:300])
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
    assert seen[200] > 50
    assert seen[400] > 300
    assert not [line for line in server.lines if "ended in a bug" in line]


def test_deep_and_huge_bodies_end_soon(server: RunningServer) -> None:
    bodies = [
        b'{"instances":' + b"[" * 2_000_000,
        b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"instances":[' + b'{"a":' * 100_000,
        b'{"instances":[' + b"{}," * 500_000 + b"{}]}",
        b'{"instances":[' + b'{"0/observation":[1,2,3,4]},' * 70_000 + b'{"0/observation":[1,2,3,4]}]}',
        b'{"inputs":{' + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}}",
        b'{"instances":[' + b'{"k":' + b"1" * 2_000_000 + b"}]}",
        b'{"instances":[' + b'{"0/observation":[1,2,3,"},{"]},' * 50_000 + b"{}]}",
        b'{"instances":[[' + b"NaN," * 500_000 + b"1]]}",
        b'{"signature_name":"' + b"x" * 1_000_000 + b'","instances":[[1,2,3,4]]}',
    ]
    for body in bodies:
        response = server.http.post("/v1/models/cartpole:predict", content=body, timeout=60)
        assert response.status_code == 400, (body[:60], response.status_code, response.text[:200])
        assert len(response.content) < 2000
    assert server.http.post("/v1/models/cartpole:predict", json=GOOD[0]).status_code == 200


def test_openapi_is_as_it_was(server: RunningServer) -> None:
    """Others' protocols are documented by others: their paths stand in no document of ours."""
    paths = server.http.get("/openapi.json").raise_for_status().json()["paths"]
    assert not [path for path in paths if path.startswith("/v1/models")]
