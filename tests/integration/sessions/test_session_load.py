"""Thousands of sessions at once, with retries, dropped connections and new runs: every action is the policy's own."""

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import time_step as ts

from tests.integration.sessions.test_sessions import server_of
from tests.support import policies
from tests.support.server import RunningServer

RUNS, STEPS, CONNECTIONS = 2, 5, 24
# Where two actions are worth nearly the same, the last bits of float32 decide, which depend on the size of a batch.
NEARLY = 1e-4


class Dropped(Exception):
    """The connection was closed before the answer was read."""


class Connection:
    """One connection that may be closed in the midst of a request."""

    def __init__(self, server: RunningServer) -> None:
        self._port = server.http.base_url.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, method: str, path: str, body: Any = None, drop: bool = False) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        data = b"" if body is None else json.dumps(body).encode()
        writer.write(
            b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (method.encode(), path.encode(), len(data))
        )
        writer.write(data)
        await writer.drain()
        if drop:
            self.close()
            raise Dropped
        answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in answer if line.startswith(b"content-length:")]
        content = await reader.readexactly(lengths[0]) if lengths else b""
        return int(answer[0].split(b" ", 2)[1]), content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Simulator:
    """One session, stepped through its runs: the first is given up in its midst, as if its process had crashed."""

    def __init__(self, number: int, observations: np.ndarray, draw: random.Random) -> None:
        self.path = "/v1/policies/recurrent/sessions"
        self.id = f"simulator-{number}"
        self.observations = observations  # [runs, steps, 4]
        self.crash_at = draw.randrange(1, STEPS)
        self.run, self.step = 0, 0
        self.actions = np.full((RUNS, STEPS), -1)
        self.counts: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        return self.run == RUNS

    def request(self) -> tuple[str, dict]:
        observation = self.observations[self.run, self.step].tolist()
        body = {"observation": observation, "run_id": f"run-{self.run}"}
        if self.step == 0:
            return self.path, body | {"id": self.id}
        return f"{self.path}/{self.id}/action", body | {"step": self.step}

    async def go_on(self, connections: list[Connection], draw: random.Random) -> None:
        """One step, sent once or several times, or a new run."""
        path, body = self.request()
        luck = draw.random()
        if luck < 0.08:
            try:
                await connections[0].send("POST", path, body, drop=True)
            except Dropped:
                self.counts["dropped"] += 1
        answers = [await connections[0].send("POST", path, body)]
        if luck > 0.9:
            answers.append(await connections[0].send("POST", path, body))
            self.counts["repeated"] += 1
        elif luck > 0.85:
            answers += await asyncio.gather(*(c.send("POST", path, body) for c in connections))
            self.counts["sent twice at once"] += 1
        assert {status for status, _ in answers} == {201 if self.step == 0 else 200}, answers
        assert len({content for _, content in answers}) == 1
        self.counts["answers"] += len(answers)
        answer = json.loads(answers[0][1])
        assert answer["step"] == self.step
        self.actions[self.run, self.step] = answer["action"]
        self.step += 1
        if self.run == 0 and self.step == self.crash_at:
            self.run, self.step = 1, 0
            self.counts["restarted"] += 1
        elif self.step == STEPS:
            await self.end(connections[0])

    async def end(self, connection: Connection) -> None:
        late = {"observation": [0, 0, 0, 0], "run_id": "run-0"}
        status, _ = await connection.send("POST", f"{self.path}/{self.id}/action", late)
        assert status == 409  # of the run that was given up
        status, _ = await connection.send("DELETE", f"{self.path}/{self.id}?run_id=run-1")
        assert status == 204
        self.run = RUNS


async def step_all(server: RunningServer, simulators: list[Simulator], draw: random.Random) -> None:
    """In random order, over so many connections at once."""
    waiting = list(simulators)

    async def take_turns() -> None:
        connections = [Connection(server), Connection(server)]
        while waiting:
            place = draw.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            simulator = waiting.pop()  # nobody else steps it meanwhile
            await simulator.go_on(connections, draw)
            if not simulator.over:
                waiting.append(simulator)
        for connection in connections:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(take_turns())


def check_alone(simulators: list[Simulator]) -> int:
    """Compares every action with the policy called in this process; returns how many were compared."""
    policy = policies.make("recurrent")
    observations = np.stack([simulator.observations for simulator in simulators]).reshape(-1, STEPS, 4)
    actions = np.stack([simulator.actions for simulator in simulators]).reshape(-1, STEPS)
    rows = len(observations)
    state = policy.get_initial_state(rows)
    compared = 0
    for step in range(STEPS):
        kind = tf.fill([rows], ts.StepType.FIRST if step == 0 else ts.StepType.MID)
        time_step = ts.TimeStep(kind, tf.zeros([rows]), tf.ones([rows]), tf.constant(observations[:, step]))
        values, _ = policy.wrapped_policy._q_network(time_step.observation, kind, state, training=False)
        answer = policy.action(time_step, state)
        state = answer.state
        reported = actions[:, step] >= 0
        differ = reported & (actions[:, step] != answer.action.numpy())
        gap = np.abs(np.diff(values.numpy(), axis=-1))[..., 0]
        assert (gap[differ] < NEARLY).all(), f"step {step}: {differ.sum()} actions differ"
        compared += int(reported.sum())
    return compared


@pytest.mark.anyio
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", [pytest.param("memory", marks=pytest.mark.only_full), "redis"])
async def test_every_episode_is_that_of_the_policy_alone(
    exports: Path, warm: tuple[str, str], full: bool, store: str
) -> None:
    count = 10_000 if full else 150
    draw = random.Random(7)
    observations = np.random.default_rng(7).normal(0, 1, (count, RUNS, STEPS, 4)).astype(np.float32)
    simulators = [Simulator(number, one, draw) for number, one in enumerate(observations)]
    with server_of(store, {"recurrent": exports / "recurrent"}, *warm, prepared=True) as server:
        began = time.perf_counter()
        await step_all(server, simulators, draw)
        took = time.perf_counter() - began
        left = server.http.get(f"{simulators[0].path}/{simulators[0].id}")
    compared = check_alone(simulators)
    total = sum((simulator.counts for simulator in simulators), Counter())
    print(f"{store}: {count} sessions in {took:.1f} s, {compared} actions compared: {dict(total)}")
    assert left.status_code == 404
    assert min(total[kind] for kind in ("dropped", "repeated", "sent twice at once")) > 0
    assert total["restarted"] == count


def episode(server: RunningServer, seed: int) -> list[bytes]:
    """The bytes of all answers of one episode of a policy that draws."""
    root, draw = "/v1/policies/boltzmann/sessions", np.random.default_rng(seed)
    rows = [draw.normal(0, 1, (3, 4)).round(3).tolist() for _ in range(8)]
    begin = {"id": f"episode-{seed}", "run_id": "replayed", "observation": rows[0], "options": {"seed": seed}}
    answers = [server.http.post(root, json=begin)]
    for step, row in enumerate(rows[1:], 1):
        body = {"step": step, "observation": row, "first": [step == 4, False, False]}
        answers.append(server.http.post(f"{root}/episode-{seed}/action", json=body))
    assert server.http.delete(f"{root}/episode-{seed}").status_code == 204
    return [answer.raise_for_status().content for answer in answers]


async def others(server: RunningServer, number: int, over: asyncio.Event) -> None:
    """Batches of every size, one after the other."""
    connection, draw = Connection(server), random.Random(number)
    while not over.is_set():
        rows = [[draw.random() for _ in range(4)] for _ in range(draw.randrange(1, 40))]
        status, _ = await connection.send("POST", "/action", {"observation": rows, "options": {"mode": "sample"}})
        assert status == 200
    connection.close()


async def under_load(server: RunningServer, seeds: range) -> list[list[bytes]]:
    """The episodes, while others ask too."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(others(server, number, over))
        try:
            return [await asyncio.to_thread(episode, server, seed) for seed in seeds]
        finally:
            over.set()


@pytest.mark.anyio
async def test_a_replayed_episode_gives_the_same_bytes(exports: Path, warm: tuple[str, str], full: bool) -> None:
    """Alone, and under the load of others, with other workers and in another process."""
    seeds = range(100 if full else 12)
    folders = {"boltzmann": exports / "boltzmann"}
    with server_of("memory", folders, *warm, prepared=True) as server:
        alone = [episode(server, seed) for seed in seeds]
        assert alone[0] == episode(server, 0)
    with server_of("redis", folders, *warm, prepared=True) as server:
        assert await under_load(server, seeds) == alone
    print(f"{len(seeds)} episodes replayed under load, 2 workers: every byte the same")
