"""Vectors of environments with retries, drops and new runs, over swaps and killed workers: each row is there once.

Simulators note what they sent and what was answered. The rows have to be those steps that were answered and followed
by another one, and nothing else. A worker that is killed takes sessions in memory with it: whether the step that was
under way then counts as answered, and so ends a row, nobody can know; it may be either way. With Redis the step is sent
again to the next worker, and every row is certain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.sessions.test_sessions import server_of
from tests.support.policies import CountingPolicy, NumberTrainer
from tests.support.server import RunningServer

FIRST, MID, LAST = 0, 1, 2
CONNECTIONS = 16
ROOT = "/v1/policies/counting/sessions"


class Broken(Exception):
    """The connection has ended before the answer was there."""


class Connection:
    """One connection, opened again when it breaks; it may be dropped in the midst of a request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any], drop: bool = False) -> tuple[int, dict[str, Any]]:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(head.encode() + data)
            await writer.drain()
            if drop:
                raise Broken
            answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in answer if line.startswith(b"content-length:"))
            return int(answer[0].split(b" ", 2)[1]), json.loads(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError, Broken):
            self.close()
            raise Broken from None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Sent:
    """What a simulator has sent in a step: one value for each row."""

    observation: np.ndarray
    step_type: list[int]
    reward: list[float]
    discount: list[float]


@dataclass
class Run:
    """The notes of one run: its steps that were answered, with their answers, and one that may have been."""

    run_id: str
    answered: list[tuple[Sent, dict[str, Any]]] = field(default_factory=list)
    unsure: Sent | None = None


class Simulator:
    """A vector of environments, or a single one, whose episodes are of random lengths."""

    def __init__(self, number: int, draw: random.Random, steps: int) -> None:
        self.id = f"simulator-{number}"
        self.draw = draw
        self.rows = draw.choice([None, 1, 2, 3])
        self.says_all = draw.random() < 0.7  # or leaves types, rewards and discounts to the server
        self.recorded = draw.random() < 0.9
        self.left = steps
        self.runs: list[Run] = []
        self.lost = True
        self.counts: Counter[str] = Counter()

    def _sent(self, before: Sent | None) -> Sent:
        count, draw = self.rows or 1, self.draw
        observation = np.array([[draw.randrange(1000) / 8 for _ in range(4)] for _ in range(count)], np.float32)
        if before is None:
            return Sent(observation, [FIRST] * count, [0.0] * count, [1.0] * count)
        if not self.says_all:
            return Sent(observation, [MID] * count, [0.0] * count, [1.0] * count)
        types = [
            FIRST if old == LAST else LAST if (luck := draw.random()) < 0.15 else FIRST if luck < 0.18 else MID
            for old in before.step_type
        ]
        discount = [draw.choice([0.0, 1.0]) if kind == LAST else 1.0 for kind in types]
        return Sent(observation, types, [draw.randrange(64) / 16 for _ in types], discount)

    def _body(self, sent: Sent, run: Run) -> dict[str, Any]:
        def shaped(values: list[Any]) -> Any:
            return values if self.rows else values[0]

        body = {"run_id": run.run_id, "observation": shaped(sent.observation.tolist())}
        if run.answered and self.says_all:
            body |= {name: shaped(getattr(sent, name)) for name in ("step_type", "reward", "discount")}
        return body

    async def go_on(self, connection: Connection) -> None:
        """One step, sent until it is answered, or a new run."""
        if self.lost or self.draw.random() < 0.02:
            self.runs.append(Run(f"run-{len(self.runs)}"))
            self.lost = False
        run = self.runs[-1]
        step = len(run.answered)
        sent = self._sent(run.answered[-1][0] if run.answered else None)
        body = self._body(sent, run)
        if step == 0:
            path, body = ROOT, body | {"id": self.id}
            if not self.recorded:
                body["record"] = False
        else:
            path, body = f"{ROOT}/{self.id}/action", body | {"step": step}
        status, answer = await self._insist(connection, path, body, run, sent)
        if status == 404:  # it was in the memory of a worker that is dead
            self.lost = True
            self.counts["lost"] += 1
            return
        assert status == (201 if step == 0 else 200), (status, answer, self.id, step)
        assert answer["step"] == step
        run.answered.append((sent, answer))
        run.unsure = None
        if step and self.draw.random() < 0.06:
            again = await self._insist(connection, path, body, run, None)
            assert again[0] == 404 or again[1] == answer
            self.counts["sent again"] += 1
        self.left -= 1

    async def _insist(
        self, connection: Connection, path: str, body: dict[str, Any], run: Run, sent: Sent | None
    ) -> tuple[int, dict[str, Any]]:
        drop = self.draw.random() < 0.06
        while True:
            try:
                status, answer = await connection.post(path, body, drop)
            except Broken:
                self.counts["dropped" if drop else "broken"] += 1
                drop = False
                run.unsure = sent or run.unsure
                await asyncio.sleep(0.01)
                continue
            if status != 503:
                return status, answer
            await asyncio.sleep(0.05)

    def rows_of(self) -> tuple[dict[tuple[Any, ...], dict[str, Any]], dict[tuple[Any, ...], dict[str, Any]]]:
        """The rows that there have to be, and those that there may be, by session, run, row and step."""
        certain: dict[tuple[Any, ...], dict[str, Any]] = {}
        possible: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in self.runs if self.recorded else []:
            nexts = [sent for sent, _ in run.answered[1:]]
            for step, ((sent, answer), after) in enumerate(zip(run.answered, nexts, strict=False)):
                self._note(certain, run, step, sent, answer, after)
            if run.unsure is not None and run.answered:
                step = len(run.answered) - 1
                self._note(possible, run, step, *run.answered[-1], run.unsure)
        return certain, possible

    def _note(
        self, into: dict[tuple[Any, ...], Any], run: Run, step: int, sent: Sent, answer: dict[str, Any], after: Sent
    ) -> None:
        action = answer["action"] if self.rows else [answer["action"]]
        for row, (kind, following) in enumerate(zip(sent.step_type, after.step_type, strict=True)):
            if kind != LAST and following == FIRST:
                continue
            into[self.id, run.run_id, row, step] = {
                "step_type": kind,
                "observation": sent.observation[row].tolist(),
                "action": action[row],
                "next_step_type": following,
                "reward": after.reward[row],
                "discount": after.discount[row],
                "version": answer["version"],
                "train_step": answer["train_step"],
                "mode": "",
                "seed": -1,
            }


async def step_all(server: RunningServer, simulators: list[Simulator], disturbed: asyncio.Event) -> None:
    """Steps each as often as it should, and slowly on until all that disturbs is over."""
    waiting = list(simulators)
    draw = random.Random(1)

    async def take_turns() -> None:
        connection = Connection(server.http.base_url.port)
        while waiting:
            place = draw.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            simulator = waiting.pop()  # nobody else steps it meanwhile
            if simulator.left <= 0:
                await asyncio.sleep(0.05)
            await simulator.go_on(connection)
            if simulator.left > 0 or not disturbed.is_set():
                waiting.append(simulator)
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(take_turns())


def swap_to(server: RunningServer, name: str) -> None:
    """Asks for a checkpoint until that is answered: the worker that is asked may be killed, too."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = server.reload("counting", checkpoint=name)
            if answer.status_code != 503:
                answer.raise_for_status()
                return
        time.sleep(0.1)


async def disturb(
    server: RunningServer, names: list[str], simulators: list[Simulator], disturbed: asyncio.Event
) -> None:
    """Swaps to each of the checkpoints, spread over all steps; a worker is killed while that is under way.

    The next swap waits until there has to be a row of the one before, however soon all steps are done.
    """
    total = sum(simulator.left for simulator in simulators)
    for number, name in enumerate(names):
        while sum(simulator.left for simulator in simulators) > total * (1 - (number + 1) / (len(names) + 1)):
            await asyncio.sleep(0.02)
        swap = asyncio.create_task(asyncio.to_thread(swap_to, server, name))
        await asyncio.sleep(0.3)
        workers = server.processes("app.worker")
        if workers:
            os.kill(workers[number % len(workers)], signal.SIGKILL)
        await swap
        while not any(row["version"] == name for simulator in simulators for row in simulator.rows_of()[0].values()):
            await asyncio.sleep(0.02)
    disturbed.set()


def read_all(server: RunningServer, count: int) -> list[dict[str, Any]]:
    """Every row there is, once there are so many and for half a second no more of them."""
    found: list[dict[str, Any]] = []
    cursor, until = "", time.monotonic() + 60
    while time.monotonic() < until:
        query = {"cursor": cursor, "max_rows": 1000, "wait_ms": 500}
        answer = server.http.get("/v1/policies/counting/experience", params=query)
        if answer.status_code == 503:
            time.sleep(0.1)
            continue
        page = answer.raise_for_status().json()
        assert page["lost_rows"] == 0
        cursor = page["cursor"]
        names = page["columns"]
        found += [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]
        if not page["rows"] and len(found) >= count:
            break
    return found


@pytest.mark.anyio
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", ["memory", pytest.param("redis", marks=pytest.mark.only_full)])
async def test_rows_are_the_steps_that_were_answered_and_followed(
    store: str, tmp_path: Path, warm: tuple[str, str], full: bool
) -> None:
    count, steps, kills = (1000, 40, 10) if full else (60, 12, 2)
    trainer = NumberTrainer(tmp_path / "counting", kind_of_policy=CountingPolicy)
    names = [trainer.publish(number + 1) for number in range(kills)]
    disturbed = asyncio.Event()
    simulators = [Simulator(number, random.Random(number), steps) for number in range(count)]
    options = ("--no-watch", "--experience-dir", str(tmp_path / "experience"), *warm)
    with server_of(store, {"counting": trainer.folder}, *options) as server:
        async with asyncio.TaskGroup() as group:
            group.create_task(disturb(server, names, simulators, disturbed))
            group.create_task(step_all(server, simulators, disturbed))
        certain: dict[tuple[Any, ...], dict[str, Any]] = {}
        possible: dict[tuple[Any, ...], dict[str, Any]] = {}
        for simulator in simulators:
            sure, unsure = simulator.rows_of()
            certain |= sure
            possible |= unsure
        rows = await asyncio.to_thread(read_all, server, len(certain))
    total = sum((simulator.counts for simulator in simulators), Counter())
    print(f"{store}: {len(rows)} rows, {len(possible)} uncertain, {kills} kills: {dict(total)}")
    found = {(row["session"], row["run_id"], row["row"], row["step"]): row for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    assert found.keys() >= certain.keys()
    assert found.keys() - certain.keys() <= possible.keys()
    for key, row in found.items():
        expected = certain.get(key) or possible[key]
        assert {name: row[name] for name in expected} == expected, key
    assert {row["version"] for row in rows} >= set(names), "a swap was not seen"
    assert min(total["dropped"], total["sent again"]) > 0
    if store == "redis":
        assert not possible
        assert not total["lost"]
