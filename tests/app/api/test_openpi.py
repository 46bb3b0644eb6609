"""An episode over a WebSocket: what of it an answer changes, and where."""

import asyncio
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from app.api.openpi import Episode
from app.batching.rule import Result
from app.engine.noise import seeded_noise
from app.errors import DoesNotFit
from app.metrics import Metrics
from app.wire.codecs import MSGPACK
from saver.artifact import Noise, ServingInfo, Signature
from tests.support.served_policy import policy_of
from tests.support.session_policy import ROW, SPEC, ServedPolicy

pytestmark = pytest.mark.anyio


class Records:
    """In the place of what writes the steps of an episode."""

    def __init__(self) -> None:
        self.written: list[tuple[bool, str]] = []

        self.noise_steps: list[int] = []

    def write(self, begins: bool, *rest: Any) -> None:
        self.written.append((begins, threading.current_thread().name))
        self.noise_steps.append(rest[-1])


class Socket:
    """In the place of a connection: keeps what it is answered."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.cycle: Any = None
        self.loop = asyncio.get_running_loop()

    def write_answer(self, _: bytes, body: bytes) -> None:
        self.answers.append(msgspec.msgpack.decode(body))

    def write_response(self, response: Any) -> None:
        self.answers.append(bytes(response.body).decode())


def episode_of(served: ServedPolicy, records: Any = None) -> Episode:
    return Episode(served.service, served.policy, Metrics(), 60.0, records=records)


def observed(*rows: float, **more: Any) -> bytes:
    array = np.array(rows, np.float32).reshape(-1, 1)
    data = {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": array.shape}
    return msgspec.msgpack.encode({"observation": data, **more})


def result(state: float) -> Result:
    ones = np.ones((1, 1), np.float32)
    return Result({"action": ones, "state/0": ones * np.float32(state)}, "v0", 0, "d0")


async def test_nothing_changes_before_the_answer_leaves_whoever_writes_it() -> None:
    async with ServedPolicy.open() as served:
        records = Records()
        episode = episode_of(served, records)
        pending: Any = episode._read(observed(1))
        assert pending.job.needs_state
        writer = threading.Thread(target=pending.answer, args=(result(5), MSGPACK), name="writes")
        writer.start()
        writer.join()
        assert records.written == []
        again: Any = episode._read(observed(1))
        assert again.job.needs_state
        episode.answered()
        assert records.written == [(True, threading.current_thread().name)]
        after: Any = episode._read(observed(1))
        assert after.job.inputs["1/0"].tolist() == [[5.0]]
        episode.answered()  # as for a message that asks nothing of the policy
        assert len(records.written) == 1


@pytest.mark.filterwarnings("ignore:overflow")
async def test_a_state_that_is_not_finite_is_refused_and_the_episode_goes_on_from_the_step_before() -> None:
    async with ServedPolicy.open() as served:
        records = Records()
        episode, socket = episode_of(served, records), Socket()
        large = float(np.finfo(np.float32).max)
        for number in (1.0, large, large, 2.0):
            episode.answer(observed(number), False, socket)  # type: ignore[arg-type]
            while socket.cycle.waiting is None and not socket.cycle.over:
                await asyncio.sleep(0)
        assert "the policy state after it is not finite" in socket.answers[2]
        assert [type(answer) for answer in socket.answers] == [dict, dict, str, dict]
        assert [begins for begins, _ in records.written] == [True, False, False]


async def test_a_refusal_lets_go_of_what_was_written() -> None:
    async with ServedPolicy.open() as served:
        episode = episode_of(served)
        pending: Any = episode._read(observed(1))
        with pytest.raises(DoesNotFit, match="not finite"):
            pending.answer(result(np.nan), MSGPACK)
        pending.answer(result(3), MSGPACK)
        episode.refused()
        episode.answered()
        assert episode._read(observed(1)).job.needs_state  # type: ignore[union-attr]


async def test_noise_is_recorded_as_that_of_the_episodes_step_and_where_a_message_has_a_seed_the_first() -> None:
    noise = Noise(1, 0)
    sampling = ServingInfo({"sample": Signature({}, {"action": ROW, "state/0": ROW})}, {}, noise, {})
    async with ServedPolicy.open() as served:
        policy = policy_of(SPEC, sampling, rows_limit=4, versions=served.policy.versions)
        records: Any = Records()
        episode = Episode(served.service, policy, Metrics(), 60.0, records=records)
        episode._read(msgspec.msgpack.encode({"endpoint": "reset", "seed": 7}))
        drawn = []
        for seed in ({}, {}, {"seed": 9}, {}):
            pending: Any = episode._read(observed(1, **seed))
            drawn.append(pending.job.inputs["noise/uniform"].tolist())
            pending.answer(result(5), MSGPACK)
            episode.answered()
        assert records.noise_steps == [0, 1, 0, 3]
        for seed, step, found in zip((7, 7, 9, 7), records.noise_steps, drawn, strict=True):
            assert found == seeded_noise(noise, 1, seed, step)["noise/uniform"].tolist()
