"""Checkpoints that may not serve: each is refused for its own reason, and the old version answers on without a gap.

One server watches one policy all the while, and each bad checkpoint has the highest train step of all: the watcher
wants it too.
"""

import io
import itertools
import json
import os
import random
import re
import select
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from saver.artifact import CHECKPOINT_FILE, digest_of, write_checkpoint_manifest
from tests.support.policies import NumberTrainer
from tests.support.server import ADMIN_TOKEN, RunningServer, serving
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
        """A good checkpoint with the highest train step of all, on the outbox."""
        trainer = self.plain if style == "plain" else self.ours
        trainer.publish(self.step, name, self.outbox)
        return self.outbox / name

    def tree(self) -> dict[str, Any]:
        """The variables of a good checkpoint, to be changed and written by hand."""
        self.ours.policy.set_number(self.step)
        copies = [tf.Variable(variable) for variable in self.ours.policy.variables()]
        return {"model_variables": copies, "train_step": tf.Variable(self.step, dtype=tf.int64)}

    def place(self, folder: Path) -> Path:
        """Puts what lies on the outbox where the server looks, at once and as if it had been there for a while."""
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
        """What `versions` tells of it."""
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


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    folder = tmp_path_factory.mktemp("bad")
    ours = NumberTrainer(folder / "p", filler=FILLER)
    plain = NumberTrainer(folder / "elsewhere", plain=True, filler=FILLER)
    with serving({"p": ours.folder}, POLICY_SERVER_UPLOAD_LIMIT_BYTES=str(UPLOAD_LIMIT)) as server:
        made = Scenario(folder, server, ours, plain)
        with made.load:
            made.serve_good()
            yield made
    assert "Traceback" not in "\n".join(server.lines)


@pytest.fixture(autouse=True)
def _no_request_fails(scenario: Scenario) -> Iterator[None]:
    yield
    scenario.load.more(5)
    failures = scenario.load.new_failures()
    scenario.back_to_base()  # also after a test that has failed
    scenario.load.new_failures()
    assert failures == []


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


# What can be wrong with the files


def unlink(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder / "variables")


def truncate(name: str, tenths: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size * tenths // 10)


def flip(name: str, place: int, mask: int = 0xFF) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= mask
        (folder / name).write_bytes(content)

    return spoil


def promise_a_tebibyte(folder: Path) -> None:
    """The footer of an index: offset and size of two blocks. The second is what is read first."""
    body = (folder / INDEX).read_bytes()
    footer = bytes([0, 8, 0, *[0x80] * 5, 0x20])
    (folder / INDEX).write_bytes(body[:-FOOTER] + footer.ljust(FOOTER - 8, b"\0") + body[-8:])


def other_digest(folder: Path) -> None:
    """A manifest that fits together, of files that are not these."""
    manifest = folder / CHECKPOINT_FILE
    listed = json.loads(manifest.read_text())
    other = dict.fromkeys(listed["files"], "0" * 64)
    manifest.write_text(json.dumps(listed | {"files": other, "digest": digest_of(other)}))


# What can be wrong with the variables


def missing(tree: dict[str, Any]) -> None:
    tree["model_variables"].pop()


def extra(tree: dict[str, Any]) -> None:
    tree["model_variables"].append(tf.Variable(1.0))


def narrow(tree: dict[str, Any]) -> None:
    tree["model_variables"][0] = tf.Variable(tf.cast(tree["model_variables"][0], tf.float16))


def wider(tree: dict[str, Any]) -> None:
    tree["model_variables"][0] = tf.Variable(tf.zeros([FILLER + 1]))


def recurrent(tree: dict[str, Any]) -> None:
    shapes = ([4, 8], [2, 8], [8], [2, 2], [2, 1], [1])
    tree["model_variables"] = [tf.Variable(tf.zeros(shape)) for shape in shapes]


def holding(value: float) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        content = np.zeros(FILLER, np.float32)
        content[[5, 50_000, FILLER - 1]] = value
        tree["model_variables"][0].assign(content)

    return change


@dataclass(frozen=True)
class Bad:
    """A kind of bad checkpoint: what is done to its variables before and to its files after they are written.

    `says` has, by who wrote it, what the reason begins with and what it names: `ours` was spoilt after checkpoint.json
    was written, `plain` has no checkpoint.json, and `lying` has one with the digests of the spoilt files.
    """

    says: dict[str, str]
    change: Callable[[dict[str, Any]], None] | None = None
    spoil: Callable[[Path], object] = lambda _: None
    shard_bytes: int | None = None

    def write(self, scenario: Scenario, name: str, style: str) -> Path:
        if self.change is None and self.shard_bytes is None:
            folder = scenario.written(name, style)
        else:
            folder, tree = scenario.outbox / name, scenario.tree()
            (self.change or (lambda _: None))(tree)
            write(folder, tree, self.shard_bytes)
            if style == "ours":
                write_checkpoint_manifest(folder, scenario.step)
        self.spoil(folder)
        if style == "lying":
            write_checkpoint_manifest(folder, scenario.step)
        return folder


def unreadable(what: str) -> dict[str, str]:
    """Other bytes: the digests tell it where there are true ones, TensorFlow's own checksums otherwise."""
    return {
        "ours": r"refused: variables/variables\S+ has sha256 \w+…, its manifest says \w+…",
        "plain": f"refused: {what}",
        "lying": f"refused: {what}",
    }


def wrong(what: str) -> dict[str, str]:
    """Other variables: digests, true ones, say nothing of it."""
    return {"plain": f"refused: {what}", "lying": f"refused: {what}"}


LARGE = "model_variables/0"
KINDS = {
    "empty folder": Bad(
        {"plain": f"incomplete: {INDEX} is missing", "ours": f"incomplete: {SHARD} is missing"}, spoil=empty
    ),
    "index missing": Bad(
        {
            "plain": f"incomplete: {INDEX} is missing",
            "ours": f"incomplete: {INDEX} is missing",
            "lying": "refused: its index cannot be read: ",
        },
        spoil=unlink(INDEX),
    ),
    "one shard missing": Bad(
        {
            "plain": "incomplete: 2 of 3 data files are there",
            "ours": f"incomplete: {SHARD_2_OF_3} is missing",
            "lying": f"refused: {LARGE} cannot be read: .*00001-of-00003",
        },
        spoil=unlink(SHARD_2_OF_3),
        shard_bytes=2 * FILLER,
    ),
    "data truncated": Bad(unreadable(f"{LARGE} cannot be read: "), spoil=truncate(SHARD, 5)),
    "index truncated": Bad(unreadable("its index cannot be read: "), spoil=truncate(INDEX, 5)),
    "data flipped": Bad(unreadable(f"{LARGE} cannot be read: .*[Cc]hecksum"), spoil=flip(SHARD, 1000)),
    "index flipped": Bad(unreadable("its index cannot be read: "), spoil=flip(INDEX, 50)),
    "index promises a tebibyte": Bad(unreadable("its index cannot be read: "), spoil=promise_a_tebibyte),
    "digest does not match": Bad({"ours": r"refused: variables/variables\S+ has sha256 \w+…, .* says 000000"}),
    "other architecture": Bad(wrong(r"variable \S+/3 is unknown to the policy \(3 such\)"), change=recurrent),
    "other size": Bad(wrong(rf"variable {LARGE} is float32 \[100001\], .* float32 \[100000\]"), change=wider),
    "variable missing": Bad(wrong(r"variable model_variables/2 is missing \(1 of 4 are\)"), change=missing),
    "variable too many": Bad(wrong(r"variable \S+/3 is unknown to the policy \(1 such\)"), change=extra),
    "other dtype": Bad(wrong(rf"variable {LARGE} is float16 \[100000\], .* float32"), change=narrow),
    "NaN": Bad(wrong(f"variable {LARGE} holds 3 values of 100000 that are NaN"), change=holding(np.nan)),
    "infinity": Bad(wrong(f"variable {LARGE} holds 3 values of 100000 .* infinite"), change=holding(-np.inf)),
}
CASES = [(kind, style) for kind, bad in KINDS.items() for style in bad.says]


def check_refused(scenario: Scenario, folder: Path, says: str) -> str:
    """Neither watching nor a reload by name brings it, both for this reason; returns the reason."""
    name = folder.name
    refused = says.startswith("refused")
    told = scenario.refusal(name) if refused else None
    response = scenario.server.reload("p", checkpoint=name)
    assert response.status_code == 409, response.text
    assert response.json()["title"] == "Swap refused"
    head, _, reason = response.json()["detail"].partition(": ")
    assert head == f"checkpoint {name} is {says.partition(': ')[0]}"
    assert re.match(says.partition(": ")[2], reason), reason
    assert len(reason) < 300, "no dump of a library's error"
    if refused:
        assert told == reason == scenario.refusal(name)
    else:
        assert scenario.state(name) != "refused"
    scenario.check_unchanged()
    return reason


@pytest.mark.parametrize(("kind", "style"), CASES)
def test_a_bad_checkpoint_is_refused_for_its_own_reason(scenario: Scenario, kind: str, style: str) -> None:
    bad = KINDS[kind]
    folder = bad.write(scenario, scenario.next_name(kind), style)
    if kind == "digest does not match":
        other_digest(folder)
    folder = scenario.place(folder)
    scenario.reasons[f"{kind}, {style}"] = check_refused(scenario, folder, bad.says[style])


def test_no_two_kinds_give_the_same_reason(scenario: Scenario) -> None:
    """But for digests, which tell that bytes differ and not why; and a lie in a manifest reads as the plain truth."""
    told: dict[str, set[str]] = {}
    for kind, style in CASES:
        reason = scenario.reasons.get(f"{kind}, {style}")
        if reason is not None and "has sha256" not in reason:
            told.setdefault(reason, set()).add(kind)
    if not told:
        pytest.skip("the tests above did not run")
    alike = ({"empty folder", "index missing"}, {"NaN", "infinity"})  # what is said is true of both
    for reason, kinds in told.items():
        assert len(kinds) == 1 or kinds in alike, f"{kinds} are all told: {reason}"


@pytest.mark.parametrize(("name", "style"), [(SHARD, "plain"), (INDEX, "plain"), (SHARD, "ours")])
def test_a_file_truncated_at_any_tenth_is_refused(scenario: Scenario, name: str, style: str) -> None:
    for tenths in range(10):
        folder = scenario.written(scenario.next_name(f"cut-at-{tenths}"), style)
        truncate(name, tenths)(folder)
        what = f"{name} has sha256" if style == "ours" else "(its index|train_step|model_variables/0) cannot be read: "
        check_placed(scenario, folder, what)


def check_placed(scenario: Scenario, folder: Path, what: str) -> None:
    folder = scenario.place(folder)
    check_refused(scenario, folder, f"refused: {what}")
    shutil.rmtree(folder)


def values(folder: Path) -> dict[str, bytes] | None:
    """All that TensorFlow reads from a checkpoint; None where it cannot."""
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        return {key: np.asarray(reader.get_tensor(key)).tobytes() for key in reader.get_variable_to_shape_map()}
    except Exception:  # of many kinds
        return None


def places(folder: Path, full: bool) -> Iterator[tuple[str, int, int]]:
    """(file, place, mask) of each flip: half of them in the index, which is small but holds everything together."""
    draw = random.Random(1306)
    sizes = {name: (folder / name).stat().st_size for name in (INDEX, SHARD)}
    for number in range(200 if full else 10):
        name = (INDEX, SHARD)[number % 2]
        yield name, draw.randrange(sizes[name]), 1 << draw.randrange(8)


def test_a_flipped_bit_anywhere_is_refused(scenario: Scenario, full: bool) -> None:
    """Some 60 bytes of an index are read by nobody (padding, an empty block): there, a flip changes nothing."""
    good = scenario.written("good", "plain")
    idle = 0
    for name, place, mask in places(good, full):
        folder = scenario.written(scenario.next_name(f"flip-at-{place}"), "plain")
        before = values(folder)
        flip(name, place, mask)(folder)
        if values(folder) == before:
            assert name == INDEX
            assert place >= (folder / INDEX).stat().st_size - TAIL
            idle += 1
            shutil.rmtree(folder)
            continue
        check_placed(scenario, folder, "(its index|train_step|model_variables/.|_CHECK.*) cannot be read: ")
    shutil.rmtree(good)
    print(f"{200 if full else 10} flips, {idle} of them in bytes that nobody reads, all others refused")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "checkpoint.json is not JSON"),
        ("[" * 100_000, "checkpoint.json is not JSON"),
        ("[]", "checkpoint.json holds list"),
        ('{"format": 99}', "checkpoint.json has format 99, expected 1"),
        ('{"format": 1, "train_step": 5}', "checkpoint.json lacks .*digest|checkpoint.json lacks .*files"),
        ('{"format": 1, "train_step": 5, "digest": "x", "files": {"../../etc/passwd": "y"}}', "at odds with itself"),
    ],
)
def test_an_odd_manifest_is_refused_and_named(scenario: Scenario, content: str, reason: str) -> None:
    folder = scenario.written(scenario.next_name("odd"), "ours")
    (folder / CHECKPOINT_FILE).write_text(content)
    check_placed(scenario, folder, f".*({reason})")


@pytest.mark.parametrize("style", ["plain", "ours"])
def test_what_is_incomplete_is_not_called_refused_and_holds_nothing_up(scenario: Scenario, style: str) -> None:
    kinds = [kind for kind, bad in KINDS.items() if bad.says.get(style, "").startswith("incomplete")]
    folders = [scenario.place(KINDS[kind].write(scenario, scenario.next_name(kind), style)) for kind in kinds]
    assert len(folders) == 3
    scenario.serve_good("after-the-incomplete", style)
    for folder in folders:
        assert scenario.state(folder.name) != "refused"


@pytest.mark.parametrize("style", ["ours", "plain", "lying"])
def test_a_refused_checkpoint_that_is_mended_serves(scenario: Scenario, style: str) -> None:
    bad = KINDS["NaN" if style == "lying" else "data flipped"]
    name = scenario.next_name("mended")
    folder = scenario.place(bad.write(scenario, name, style))
    scenario.refusal(name)
    scenario.good[name] = scenario.step
    good = scenario.written(name, style)
    for path in sorted(path for path in good.rglob("*") if path.is_file()):
        path.replace(folder / path.relative_to(good))  # file by file: mixed for a moment
    until(lambda: scenario.active() == name, "the mended one serving")
    assert scenario.state(name) == "active"
    scenario.base = name
    shutil.rmtree(good)


# Being written


class Writer(threading.Thread):
    """Copies a checkpoint in place, in small steps, one file after the other; `pause_s` is the longest between two."""

    def __init__(self, source: Path, destination: Path, order: tuple[str, ...], parts: int = 40) -> None:
        super().__init__()
        self.pause_s = 0.0
        self.begun = threading.Event()
        self._source, self._destination, self._order, self._parts = source, destination, order, parts

    def run(self) -> None:
        last = time.monotonic()
        for name in self._order:
            content = (self._source / name).read_bytes()
            (self._destination / name).parent.mkdir(parents=True, exist_ok=True)
            size = -(-len(content) // self._parts) if name != CHECKPOINT_FILE else len(content)
            with (self._destination / name).open("wb", buffering=0) as file:
                for start in range(0, len(content), size):
                    file.write(content[start : start + size])
                    self.pause_s = max(self.pause_s, time.monotonic() - last)
                    last = time.monotonic()
                    time.sleep(0.01)
                    self.begun.set()


ORDERS = {
    "data first": ("plain", (SHARD, INDEX)),
    "index first": ("plain", (INDEX, SHARD)),
    "manifest last": ("ours", (INDEX, SHARD, CHECKPOINT_FILE)),
    "manifest first": ("ours", (CHECKPOINT_FILE, INDEX, SHARD)),
}


def write_slowly(scenario: Scenario, order: str) -> tuple[str, Writer]:
    style, names = ORDERS[order]
    name = scenario.next_name("slow")
    source = scenario.written(name, style)
    scenario.good[name] = scenario.step  # the load tells if it answers before it is whole
    writer = Writer(source, scenario.checkpoints / name, names)
    writer.start()
    writer.begun.wait()
    return name, writer


@pytest.mark.parametrize("order", ORDERS)
def test_a_checkpoint_being_written_serves_once_it_is_whole(scenario: Scenario, order: str) -> None:
    name, writer = write_slowly(scenario, order)
    states = set()
    while writer.is_alive():
        serving, state = scenario.active(), scenario.state(name)
        if writer.is_alive():
            assert serving != name
            states.add(state)
    until(lambda: scenario.active() == name, f"{name} serving")
    scenario.base = name
    if order != "manifest first" and writer.pause_s < 0.2:  # or the machine stood still, and it looked finished
        assert "refused" not in states


@pytest.mark.parametrize("order", ["data first", "index first"])
def test_a_reload_waits_for_a_checkpoint_that_is_being_written(scenario: Scenario, order: str) -> None:
    name, writer = write_slowly(scenario, order)
    response = scenario.server.reload("p", checkpoint=name)
    if writer.pause_s < 0.2:
        assert response.status_code == 200, response.text
        assert not writer.is_alive()
    writer.join()
    until(lambda: scenario.active() == name, f"{name} serving")
    scenario.base = name


def test_a_checkpoint_that_is_never_finished_is_called_incomplete_after_some_seconds(
    scenario: Scenario, full: bool
) -> None:
    if not full:
        pytest.skip("takes its time")
    name = scenario.next_name("endless")
    folder = scenario.place(scenario.written(name, "plain"))
    index = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    stop = threading.Event()

    def write_on() -> None:
        while not stop.wait(0.02):
            (folder / "variables" / "variables.index.tempstate").write_bytes(index)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write_on)
        try:
            began = time.monotonic()
            check_refused(scenario, folder, "incomplete: ")
            assert time.monotonic() - began > 4
        finally:
            stop.set()


# Deleted while loading


def test_a_checkpoint_deleted_while_it_loads_serves_whole_or_not_at_all(scenario: Scenario, full: bool) -> None:
    draw = random.Random(1306)
    outcomes: dict[int, int] = {}
    began = time.monotonic()
    scenario.serve_good("undisturbed")
    usual_s = time.monotonic() - began
    with ThreadPoolExecutor(1) as pool:
        for number in range(100 if full else 10):
            folder = scenario.written(scenario.next_name("goes"), ("ours", "plain")[number % 2])
            scenario.good[folder.name] = scenario.step
            folder = scenario.place(folder)
            answer = pool.submit(scenario.server.reload, "p", checkpoint=folder.name)
            time.sleep(usual_s * draw.random() ** 3)  # mostly early: what is read comes first
            shutil.rmtree(folder)
            check_outcome(scenario, folder.name, answer.result(), outcomes)
    print(f"reloads of what was being deleted, by status: {outcomes}")


def check_outcome(scenario: Scenario, name: str, response: Any, outcomes: dict[int, int]) -> None:
    outcomes[response.status_code] = outcomes.get(response.status_code, 0) + 1
    if response.status_code == 200:
        assert response.json()["version"] == name
    else:
        assert response.status_code in (404, 409), response.text
        assert name in response.json()["detail"]
        assert len(response.json()["detail"]) < 300
    serving = scenario.active()
    answer = scenario.server.http.post("/action", json={"observation": [7, 0, 0, 0]}).json()
    assert answer["action"] == [1000 * scenario.good[serving] + 7] * 2


# Links


def link_away(name: str) -> Callable[[Path], object]:
    """Moves a file or folder of the checkpoint out of the policy's folder, and leaves a link to it."""

    def spoil(folder: Path) -> None:
        there = folder.parent / f"outside-{folder.name}-{Path(name).name}"
        (folder / name).rename(there)
        (folder / name).symlink_to(there)

    return spoil


@pytest.mark.parametrize(
    ("name", "style"),
    [
        (SHARD, "ours"),
        (INDEX, "ours"),
        ("variables", "ours"),
        (CHECKPOINT_FILE, "ours"),
        (SHARD, "plain"),
        (INDEX, "plain"),
        ("variables", "plain"),
    ],
)
def test_a_link_that_leads_out_of_the_checkpoint_is_refused(scenario: Scenario, name: str, style: str) -> None:
    folder = scenario.written(scenario.next_name("linked"), style)
    scenario.good[folder.name] = scenario.step  # its values are no bad ones
    link_away(name)(folder)
    check_refused(scenario, scenario.place(folder), rf"refused: {name}\S* leads outside")


@pytest.mark.parametrize("style", ["ours", "plain"])
def test_a_checkpoint_that_is_a_link_to_somewhere_else_is_refused(scenario: Scenario, style: str) -> None:
    folder = scenario.written(scenario.next_name("elsewhere"), style)
    link = scenario.checkpoints / folder.name
    link.symlink_to(folder)
    check_refused(scenario, link, "refused: it is a link that leads outside checkpoints")


def test_a_checkpoint_that_is_a_link_to_another_serves_as_what_it_leads_to(scenario: Scenario) -> None:
    name = scenario.serve_good("real")
    (scenario.checkpoints / "latest").symlink_to(name)
    scenario.good["latest"] = scenario.step
    assert scenario.server.reload("p", checkpoint="latest").json()["version"] == "latest"


@pytest.mark.parametrize("target", ["nowhere", "itself", "/etc/passwd", "/dev/zero"])
def test_a_link_to_no_folder_is_no_checkpoint(scenario: Scenario, target: str) -> None:
    (scenario.checkpoints / "itself").symlink_to(target)
    response = scenario.server.reload("p", checkpoint="itself")
    assert response.status_code == 404
    scenario.check_unchanged()


@pytest.mark.parametrize("name", [SHARD, INDEX, CHECKPOINT_FILE])
def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(scenario: Scenario, name: str) -> None:
    folder = scenario.written(scenario.next_name("fifo"), "ours")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    folder = scenario.place(folder)
    response = scenario.server.reload("p", checkpoint=folder.name)
    assert response.status_code == 409
    assert name in response.json()["detail"]
    scenario.check_unchanged()


# Tar bombs


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **extended: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, extended
    return info.tobuf(tarfile.PAX_FORMAT if extended else tarfile.GNU_FORMAT)


def whole_tar(folder: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, ".")
    return file.getvalue()


ZEROS = bytes(1 << 16)
TEBIBYTES = 2 << 40
Body = Callable[[Path], Iterable[bytes]]

# Name → what is sent, the status, and what the answer names. Most of them would never end.
BOMBS: dict[str, tuple[Body, int, str]] = {
    "promises 2 TiB": (
        lambda _: itertools.chain([header("variables/x", TEBIBYTES)], itertools.repeat(ZEROS)),
        413,
        str(TEBIBYTES),
    ),
    "promises 2 TiB in an extended header": (
        lambda _: itertools.chain(
            [header("variables/x", size=str(TEBIBYTES))],
            itertools.repeat(ZEROS),
        ),
        413,
        str(TEBIBYTES),
    ),
    "never ends after its end": (
        lambda good: itertools.chain([whole_tar(good)], itertools.repeat(ZEROS)),
        413,
        str(UPLOAD_LIMIT),
    ),
    "many files": (
        lambda _: (header(f"variables/{number}") for number in itertools.count()),
        422,
        "is member 257",
    ),
    "many folders": (
        lambda _: (header(f"variables/{number}", kind=tarfile.DIRTYPE) for number in itertools.count()),
        422,
        "is member 257",
    ),
    "many extended headers": (
        lambda _: (header("x", kind=tarfile.XHDTYPE) for _ in itertools.count()),
        422,
        "has header 1025",
    ),
    "an extended header of 1 GiB": (
        lambda _: itertools.chain([header("x", 1 << 30, tarfile.XHDTYPE)], itertools.repeat(ZEROS)),
        422,
        str(1 << 30),
    ),
    "a name of 1 GiB": (
        lambda _: itertools.chain([header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME)], itertools.repeat(ZEROS)),
        422,
        str(1 << 30),
    ),
    "a file ten thousand folders deep": (
        lambda _: itertools.chain([header("a/" * 10_000 + "x")], itertools.repeat(ZEROS)),
        422,
        "is no file of a checkpoint",
    ),
    "sparse, of 2 TiB": (
        lambda _: itertools.chain([header("variables/x", 512, tarfile.GNUTYPE_SPARSE)], itertools.repeat(ZEROS)),
        422,
        "is a sparse file",
    ),
    "sparse by an extended header": (
        lambda _: itertools.chain(
            [header("variables/x", **{"GNU.sparse.realsize": str(TEBIBYTES), "GNU.sparse.major": "1"})],
            itertools.repeat(ZEROS),
        ),
        422,
        "is a sparse file",
    ),
    "a link that leads outside": (
        lambda _: itertools.chain([header(SHARD, kind=tarfile.SYMTYPE)], itertools.repeat(ZEROS)),
        422,
        "is a link",
    ),
    "a hard link": (
        lambda _: itertools.chain([header(SHARD, kind=tarfile.LNKTYPE)], itertools.repeat(ZEROS)),
        422,
        "is a link",
    ),
    "packed": (lambda _: itertools.chain([b"\x1f\x8b" + ZEROS], itertools.repeat(ZEROS)), 422, "uncompressed tar"),
}


def flood(server: RunningServer, name: str, parts: Iterable[bytes]) -> tuple[int, dict[str, Any], int]:
    """PUTs `parts` in chunks until there is an answer: (status, its problem, bytes sent)."""
    host, port = server.url.removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port)), 20) as connection:
        start = f"PUT /admin/policies/p/checkpoints/{name}?activate=true HTTP/1.1\r\nHost: x\r\n"
        how = f"Authorization: Bearer {ADMIN_TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall((start + how).encode())
        for part in parts:
            if select.select([connection], [], [], 0)[0]:
                break
            try:
                connection.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                break  # it has been answered
            sent += len(part)
            assert sent < 20 * UPLOAD_LIMIT, "it reads and reads"
        head, _, body = read_answer(connection).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), sent


def read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}") and (part := connection.recv(1 << 16)):
        answer += part
    return answer


def bytes_below(folder: Path) -> int:
    """What the files below take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def resident_bytes(server: RunningServer) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", BOMBS)
def test_a_tar_bomb_is_refused_early_and_fills_nothing(scenario: Scenario, kind: str) -> None:
    body, status, names = BOMBS[kind]
    good = scenario.written(scenario.next_name("bomb"), "ours")
    before = (
        sorted(os.listdir(scenario.checkpoints)),
        bytes_below(scenario.checkpoints),
        resident_bytes(scenario.server),
    )
    answered, problem, sent = flood(scenario.server, good.name, body(good))
    assert (answered, problem["status"]) == (status, status), problem
    assert names in problem["detail"]
    assert len(problem["detail"]) < 600
    assert sent < UPLOAD_LIMIT + (16 << 20), "what lies in the sockets' buffers, and no more"
    until(lambda: sorted(os.listdir(scenario.checkpoints)) == before[0], "nothing left behind")
    assert bytes_below(scenario.checkpoints) == before[1]
    assert resident_bytes(scenario.server) < before[2] + (64 << 20)
    assert scenario.row(good.name) is None
    scenario.check_unchanged()
    shutil.rmtree(good)
