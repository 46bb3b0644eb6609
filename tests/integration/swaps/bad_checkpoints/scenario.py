"""A server that watches one policy, its load, and those who write checkpoints for it.

Each bad checkpoint has the highest train step of all: the watcher wants it too.
"""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.support.policies import NumberTrainer
from tests.support.server import RunningServer
from tests.support.steady import SteadyLoad, until

FILLER = 100_000
INDEX = "variables/variables.index"
SHARD = "variables/variables.data-00000-of-00001"
SHARD_2_OF_3 = "variables/variables.data-00001-of-00003"
UPLOAD_LIMIT = 8 << 20
# An index ends with a block that is empty, one that is not, and a footer.
FOOTER = 48
TAIL = FOOTER + 45


class Scenario:
    """The server, its load, and those who write checkpoints for it; `base` is the good one that serves."""

    def __init__(self, folder: Path, server: RunningServer, ours: NumberTrainer, plain: NumberTrainer) -> None:
        self.server, self.ours, self.plain = server, ours, plain
        self.checkpoints = ours.folder / "checkpoints"
        self.outbox = folder / "outbox"
        self.good: dict[str, int] = {"export": 0}
        self.base = ""
        self.step = 0
        self.reasons: dict[str, str] = {}
        self.load = SteadyLoad(server.url, "p", self.good)

    def next_name(self, kind: str) -> str:
        self.step += 1
        return f"{self.step}-{re.sub('[^A-Za-z0-9.]+', '-', kind)}"

    def written(self, name: str, style: str) -> Path:
        """A good checkpoint with the highest train step of all, in the outbox."""
        trainer = self.plain if style == "plain" else self.ours
        trainer.publish(self.step, name, self.outbox)
        return self.outbox / name

    def tree(self) -> dict[str, Any]:
        """The variables of a good checkpoint, to be changed and written by hand."""
        self.ours.policy.set_number(self.step)
        copies = [tf.Variable(variable) for variable in self.ours.policy.variables()]
        return {"model_variables": copies, "train_step": tf.Variable(self.step, dtype=tf.int64)}

    def place(self, folder: Path) -> Path:
        """Puts what lies in the outbox where the server looks, at once and as if it had been there for a while."""
        self.checkpoints.mkdir(exist_ok=True)
        return settle(folder).rename(self.checkpoints / folder.name)

    def serve_good(self, kind: str = "good", style: str = "ours") -> str:
        """Publishes a good checkpoint and waits until watching has brought it."""
        name = self.next_name(kind)
        self.good[name] = self.step
        self.place(self.written(name, style))
        until(lambda: self.active() == name, f"{name} serving")
        self.base = name
        return name

    def active(self) -> str:
        return str(self.described()["version"])

    def described(self) -> dict[str, Any]:
        listed = self.server.http.get("/v1/policies").raise_for_status().json()["policies"][0]
        return listed | {"pinned": self.server.http.get("/v1/policies/p").json()["pinned"]}

    def row(self, name: str) -> dict[str, Any] | None:
        """What `versions` lists of it."""
        rows = self.server.admin.get("/admin/policies/p/versions").raise_for_status().json()["versions"]
        return next((row for row in rows if row["version"] == name), None)

    def refusal(self, name: str) -> str:
        """Why the watcher refused it, once it has tried it."""
        until(lambda: self.state(name) in ("refused", "active"), f"{name} tried by the watcher")
        assert self.state(name) == "refused", f"{name} serves"
        return str((self.row(name) or {})["reason"])

    def state(self, name: str) -> str:
        return str((self.row(name) or {}).get("state"))

    def back_to_base(self) -> None:
        """Leaves only the good checkpoint in the folder, and has it served without a pin."""
        for path in self.checkpoints.iterdir():
            if path.is_symlink():
                path.unlink()
            elif path.name != self.base:
                shutil.rmtree(path)
        if self.active() != self.base or self.described()["pinned"] is not None:
            assert self.server.reload("p").json()["version"] == self.base

    def check_unchanged(self) -> None:
        described = self.described()
        assert (described["version"], described["pinned"]) == (self.base, None)
        assert self.state(self.base) == "active"
        answer = self.server.http.post("/action", json={"observation": [7, 0, 0, 0]}).json()
        assert answer["action"] == [1000 * self.good[self.base] + 7] * 2


def settle(folder: Path) -> Path:
    """Makes everything in it a minute old."""
    then = time.time() - 60
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then), follow_symlinks=False)
    return folder


def write(folder: Path, tree: dict[str, Any], shard_bytes: int | None = None) -> None:
    options = None
    if shard_bytes is not None:
        policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=shard_bytes)
        options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    tf.train.Checkpoint(**tree).write(str(folder / "variables" / "variables"), options)


def check_refused(scenario: Scenario, folder: Path, says: str) -> str:
    """Neither watching nor a reload by name brings it, both for this reason; returns the reason."""
    name = folder.name
    refused = says.startswith("refused")
    reported = scenario.refusal(name) if refused else None
    response = scenario.server.reload("p", checkpoint=name)
    assert response.status_code == 409, response.text
    assert response.json()["title"] == "Swap refused"
    head, _, reason = response.json()["detail"].partition(": ")
    assert head == f"checkpoint {name} is {says.partition(': ')[0]}"
    assert re.match(says.partition(": ")[2], reason), reason
    assert len(reason) < 300, "no dump of a library's error"
    if refused:
        afterwards = scenario.refusal(name)
        assert reported == reason == afterwards, (reported, reason, afterwards)
    else:
        assert scenario.state(name) != "refused"
    scenario.check_unchanged()
    return reason


def check_placed(scenario: Scenario, folder: Path, what: str) -> None:
    folder = scenario.place(folder)
    check_refused(scenario, folder, f"refused: {what}")
    shutil.rmtree(folder)
