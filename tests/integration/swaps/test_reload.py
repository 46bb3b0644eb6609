"""New weights under load: every answer is from one version, names it, and none fails."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer, serving

CLIENTS = 8
PAUSE_S = 0.005


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NumberTrainer]:
    """One policy written by our saver, one by tf-agents' own, and one in the layout of tf-agents' trainers."""
    folder = tmp_path_factory.mktemp("reload")
    return {
        "ours": NumberTrainer(folder / "ours", filler=100_000),
        "plain": NumberTrainer(folder / "plain", plain=True, filler=100_000),
        "trained": NumberTrainer(folder / "policies" / "policy", plain=True),
    }


@pytest.fixture(scope="module")
def server(trainers: dict[str, NumberTrainer]) -> Iterator[RunningServer]:
    """A server that swaps only when it is asked to."""
    with serving({name: trainer.folder for name, trainer in trainers.items()}, "--no-watch", prepared=True) as running:
        yield running


def number(server: RunningServer, policy: str, **options: object) -> tuple[int, str, int]:
    """What a request learns: the number in the action, the version and the train step that the answer names."""
    body = {"observation": [7, 0, 0, 0], "options": options}
    answer = server.http.post(f"/v1/policies/{policy}/action", json=body).raise_for_status().json()
    first, last = answer["action"]
    assert first == last, "the answer mixes two versions"
    assert first % 1000 == 7
    return first // 1000, answer["version"], answer["train_step"]


class Load:
    """Clients that ask and ask, each row with a mark of its own, and keep every answer with its times.

    `pause_s` is between an answer and the next question: many clients without any take this process for themselves.
    """

    def __init__(self, url: str, policy: str, clients: int = CLIENTS, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self.answers: list[tuple[float, float, dict, list[int]]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url, policy, i)) for i in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.until(lambda: len(self.answers) >= 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, condition: Callable[[], bool], timeout_s: float = 600) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def more(self, count: int) -> None:
        """Waits for that many more answers."""
        goal = len(self.answers) + count
        self.until(lambda: len(self.answers) >= goal)

    def _ask(self, url: str, policy: str, client: int) -> None:
        marks = [100 * client + row for row in range(1 + client % 4)]
        body = {"observation": [[mark, 0, 0, 0] for mark in marks]}
        with httpx.Client(base_url=url, trust_env=False, timeout=600) as http:
            while not self._stop.is_set():
                began = time.monotonic()
                response = http.post(f"/v1/policies/{policy}/action", json=body)
                if response.status_code != 200:
                    self.failures.append(response.text)
                    return
                self.answers.append((began, time.monotonic(), response.json(), marks))
                self._stop.wait(self._pause_s)


def check_answers(load: Load, acknowledged: list[tuple[float, int]]) -> None:
    """Every answer is exactly what the version it names says, and none is older than an acknowledged reload."""
    assert not load.failures
    for began, _, answer, marks in load.answers:
        train_step = answer["train_step"]
        assert answer["version"] == (f"{train_step:010d}" if train_step else "export")
        assert answer["action"] == [[1000 * train_step + mark] * 2 for mark in marks]
        newest = max((n for at, n in acknowledged if at <= began), default=0)
        assert train_step >= newest, f"began {began}, reload to {newest} was acknowledged before"


@pytest.mark.parametrize("policy", ["ours", pytest.param("plain", marks=pytest.mark.only_full)])
def test_reload_under_load_mixes_nothing_and_fails_nothing(
    server: RunningServer, trainers: dict[str, NumberTrainer], policy: str, full: bool
) -> None:
    base = int(number(server, policy)[0])
    acknowledged: list[tuple[float, int]] = []
    with Load(server.url, policy, pause_s=0.0 if full else PAUSE_S) as load:
        for step in range(base + 1, base + (100 if full else 10)):
            name = trainers[policy].publish(step)
            answer = server.reload(policy, checkpoint=name)
            assert answer.status_code == 200, answer.text
            acknowledged.append((time.monotonic(), step))
            assert answer.json().keys() == {"version", "train_step", "previous", "took_ms"}
            assert (answer.json()["version"], answer.json()["train_step"]) == (name, step)
            load.more(20)
    check_answers(load, acknowledged)
    assert {answer["train_step"] for _, _, answer, _ in load.answers} >= {base + 1, base + 2}
    print(f"{policy}: {len(acknowledged)} reloads, {len(load.answers)} answers, 0 failures, 0 mixed, 0 old")


def test_reload_without_a_name_takes_the_highest_train_step(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    for step, name in ((5000, "step-9"), (5001, "step-10"), (5001, "step-9b")):
        trainers["ours"].publish(step, name)
    answer = server.reload("ours").json()
    assert (answer["version"], answer["train_step"]) == ("step-10", 5001)  # ties go by natural name order


def test_reload_of_what_serves_says_so(server: RunningServer, trainers: dict[str, NumberTrainer]) -> None:
    server.reload("ours")
    again = server.reload("ours").json()
    assert again["previous"] == again["version"]


def test_reload_needs_no_body(server: RunningServer) -> None:
    assert server.admin.post("/admin/policies/ours/reload").status_code == 200


def test_versions_lists_every_version_and_its_state(server: RunningServer, trainers: dict[str, NumberTrainer]) -> None:
    name = trainers["ours"].publish(6000)
    server.reload("ours", checkpoint=name)
    versions = server.admin.get("/admin/policies/ours/versions").json()["versions"]
    assert versions[0].keys() == {"version", "digest", "state", "reason", "train_step", "engine", "seen_at"}
    by_name = {row["version"]: row for row in versions}
    assert by_name[name]["state"] == "active"
    assert by_name["export"]["state"] == "released"
    assert sum(row["state"] == "active" for row in versions) == 1


def test_a_checkpoint_overwritten_under_the_same_name_is_a_new_version(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    trainers["ours"].publish(7000, "again")
    server.reload("ours", checkpoint="again")
    assert number(server, "ours")[0] == 7000
    trainers["ours"].publish(7001, "again")
    server.reload("ours", checkpoint="again")
    assert number(server, "ours") == (7001, "again", 7001)


def test_the_weights_of_the_export_can_be_had_back(server: RunningServer) -> None:
    answer = server.reload("ours", checkpoint="export").json()
    assert answer["version"] == "export"
    assert number(server, "ours")[:2] == (0, "export")
    server.reload("ours")


def _damage(kind: str, folder: Path) -> None:
    data, index = (folder / "variables" / f"variables.{suffix}" for suffix in ("data-00000-of-00001", "index"))
    if kind == "index missing":
        index.unlink()
    elif kind == "shard missing":
        data.unlink()
    elif kind == "truncated":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif kind == "flipped":
        content = bytearray(data.read_bytes())
        content[-20] ^= 0xFF
        data.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        *(("ours", kind) for kind in ("index missing", "shard missing", "truncated", "flipped")),
        *(("plain", kind) for kind in ("truncated", "flipped")),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_old_weights_serve_on(
    server: RunningServer, trainers: dict[str, NumberTrainer], policy: str, kind: str
) -> None:
    before = number(server, policy)
    name = trainers[policy].publish(9_000, f"damaged-{kind.replace(' ', '-')}")
    folder = trainers[policy].folder / "checkpoints" / name
    _damage(kind, folder)
    response = server.reload(policy, checkpoint=name)
    assert response.status_code == 409
    assert name in response.json()["detail"]
    assert number(server, policy) == before
    shutil.rmtree(folder)


def test_a_plain_checkpoint_without_its_index_is_called_incomplete(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    name = trainers["plain"].publish(9_100, "half")
    (trainers["plain"].folder / "checkpoints" / name / "variables" / "variables.index").unlink()
    response = server.reload("plain", checkpoint=name)
    assert response.status_code == 409
    assert "incomplete" in response.json()["detail"]


def test_weights_that_are_not_finite_are_refused(server: RunningServer, trainers: dict[str, NumberTrainer]) -> None:
    trainer = trainers["ours"]
    before = number(server, "ours")
    trainer.policy.filler.assign(np.full(100_000, np.nan, np.float32))
    name = trainer.publish(9_200, "not-finite")
    trainer.policy.filler.assign(np.zeros(100_000, np.float32))
    response = server.reload("ours", checkpoint=name)
    assert response.status_code == 409
    assert "NaN" in response.json()["detail"]
    assert "model_variables/" in response.json()["detail"]
    assert number(server, "ours") == before
    row = server.admin.get("/admin/policies/ours/versions").json()["versions"][0]
    assert (row["state"], row["version"]) == ("refused", name)
    assert "NaN" in row["reason"]


def test_another_architecture_is_refused(
    server: RunningServer, trainers: dict[str, NumberTrainer], tmp_path: Path
) -> None:
    other = NumberTrainer(tmp_path / "other", filler=5)
    name = other.publish(9_300, "other", trainers["ours"].folder / "checkpoints")
    response = server.reload("ours", checkpoint=name)
    assert response.status_code == 409
    assert "[5]" in response.json()["detail"]
    assert "[100000]" in response.json()["detail"]


def test_the_checkpoints_of_tf_agents_trainers_are_found(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    trainer = trainers["trained"]
    name = trainer.publish(40, "policy_checkpoint_0000000040", trainer.folder.parent / "checkpoints")
    assert server.reload("trained").json()["version"] == name
    assert number(server, "trained") == (40, name, 40)


def test_min_train_step_catches_up_first(server: RunningServer, trainers: dict[str, NumberTrainer]) -> None:
    server.reload("ours")
    step = number(server, "ours")[2] + 10_000
    trainers["ours"].publish(step)
    assert number(server, "ours", min_train_step=step)[0] == step


def test_min_train_step_on_a_pinned_version_is_a_conflict_at_once(server: RunningServer) -> None:
    version = number(server, "ours")[1]
    server.reload("ours", checkpoint=version)
    body = {"observation": [7, 0, 0, 0], "options": {"min_train_step": 10**9}}
    response = server.http.post("/v1/policies/ours/action", json=body)
    assert response.status_code == 409
    assert "pinned" in response.json()["detail"]
    server.reload("ours")


def test_a_new_graph_is_stale_until_it_is_asked_for(server: RunningServer, trainers: dict[str, NumberTrainer]) -> None:
    trainer = trainers["trained"]
    assert not server.http.get("/v1/policies/trained").json()["stale"]
    trainer.policy.set_number(50)
    trainer.saver.save(str(trainer.folder))
    assert server.http.get("/v1/policies/trained").json()["stale"]
    assert number(server, "trained")[0] == 40
    assert server.reload("trained", export=True).json()["version"] == "export"
    assert number(server, "trained")[0] == 50
    assert not server.http.get("/v1/policies/trained").json()["stale"]
    assert server.reload("trained").json()["version"] == "policy_checkpoint_0000000040"


def test_a_replaced_export_serves_only_once_it_is_asked_for(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "policy")
    trainer.publish(1)
    with serving({"policy": trainer.folder}, "--no-watch", prepared=True) as server:
        assert server.reload("policy", checkpoint="export").status_code == 200
        first = number(server, "policy")
        trainer.policy.set_number(50)
        trainer.saver.save(str(trainer.folder))
        for name in ("0000000001", "export"):
            assert server.reload("policy", checkpoint=name).status_code == 200
        assert number(server, "policy") == first
        assert server.http.get("/v1/policies/policy").json()["stale"]
        assert server.reload("policy", export=True).status_code == 200
        assert number(server, "policy")[:2] == (50, "export")
        assert not server.http.get("/v1/policies/policy").json()["stale"]


@pytest.mark.parametrize(
    "content",
    [
        '{"format": 1, "train_step": 1e999, "digest": "x", "files": {}}',
        '{"format": 1, "train_step": 9, "digest": "x", "files": {"variables/\\u0000x": "y"}}',
        '{"format": 1, "train_step": 9, "digest": "x", "files": [5]}',
        "[" * 100_000,
    ],
)
def test_an_odd_manifest_hides_no_other_checkpoint(
    server: RunningServer, trainers: dict[str, NumberTrainer], content: str
) -> None:
    odd = trainers["ours"].folder / "checkpoints" / "odd"
    odd.mkdir()
    (odd / "checkpoint.json").write_text(content)
    assert server.reload("ours", checkpoint="odd").status_code == 409
    assert server.reload("ours").status_code == 200
    shutil.rmtree(odd)


def test_a_checkpoint_that_lies_about_its_train_step_is_refused(
    server: RunningServer, trainers: dict[str, NumberTrainer]
) -> None:
    name = trainers["ours"].publish(9_400, "liar")
    manifest = trainers["ours"].folder / "checkpoints" / name / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace("9400", "999999"))
    before = number(server, "ours")
    response = server.reload("ours", checkpoint=name)
    assert response.status_code == 409
    assert "999999" in response.json()["detail"]
    assert number(server, "ours") == before
    shutil.rmtree(manifest.parent)


def test_a_pin_whose_checkpoint_is_gone_is_dropped(tmp_path: Path) -> None:
    trainer = NumberTrainer(tmp_path / "policy")
    for step in (1, 2):
        trainer.publish(step)
    with serving({"policy": trainer.folder}, prepared=True) as server, Load(server.url, "policy", 1, PAUSE_S) as load:
        server.reload("policy", checkpoint="0000000001")
        shutil.rmtree(trainer.folder / "checkpoints" / "0000000001")
        load.until(lambda: load.answers[-1][2]["train_step"] == 2)


@pytest.mark.parametrize("plain", [pytest.param(False, marks=pytest.mark.only_full), True], ids=["ours", "plain"])
def test_watching_swaps_under_load_as_checkpoints_appear(tmp_path: Path, plain: bool) -> None:
    trainer = NumberTrainer(tmp_path / "policy", plain=plain)
    trainer.publish(1)
    with serving({"policy": trainer.folder}, prepared=True) as server:
        assert number(server, "policy")[0] == 1
        with Load(server.url, "policy", 4, PAUSE_S) as load:
            for step in (2, 3, 4):
                trainer.publish(step)
                load.until(lambda step=step: load.answers[-1][2]["train_step"] == step)
            trainer.publish(3, "older")
            server.reload("policy", checkpoint="0000000002")
            trainer.publish(5)
            load.more(100)
            assert number(server, "policy")[0] == 2, "a pinned version stays"
            server.reload("policy")
            assert number(server, "policy")[0] == 5
        assert not load.failures
        assert {answer["train_step"] for _, _, answer, _ in load.answers} >= {1, 2, 3, 4}


@pytest.mark.only_full  # test_episode_over_swap.py has more of it
def test_an_episode_goes_on_over_a_swap(tmp_path: Path) -> None:
    from saver import PolicySaver
    from tests.support import policies

    folder = tmp_path / "recurrent"
    policies.export("recurrent", folder)
    policy = policies.make("recurrent")
    with serving({"recurrent": folder}, "--no-watch") as server:
        first = server.http.post("/action", json={"observation": [1, 0, 0, 0]}).json()
        saver = PolicySaver(
            policy,
            train_step=policies.tf.Variable(12, dtype=policies.tf.int64),
            metadata={name: policies.tf.Variable(0, dtype=policies.tf.int64) for name in ("episodes", "frames")},
        )
        saver.save_checkpoint(str(folder / "checkpoints" / "twelve"))
        server.reload("recurrent").raise_for_status()
        body = {"observation": [1, 0, 0, 0], "policy_state": first["policy_state"]}
        second = server.http.post("/action", json=body).json()
        assert second["version"] == "twelve"
        assert second["policy_state"] != first["policy_state"]
