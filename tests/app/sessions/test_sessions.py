"""A step by the routes of the framework is the step by the fast path: same code, same bytes."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from app.errors import SessionConflict, UnknownSession, Unsupported
from app.sessions.memory import MemoryStore
from app.sessions.memory_step import LargeMemoryStep, MemoryStep
from app.sessions.record import Answer, Record
from app.sessions.sessions import Sessions
from app.sessions.store import Key
from app.wire.codecs import JSON, MSGPACK, Codec
from saver.artifact import Leaf
from tests.support.session_policy import LIMITS, SPEC, ServedPolicy

pytestmark = pytest.mark.anyio


async def by_fast_path(policy: ServedPolicy, id_: str, reads: Codec, writes: Codec, body: bytes) -> bytes:
    """What `RequestCycle` does with a step."""
    pending = policy.sessions.step_at_once(policy.policy, id_, reads, writes, body)
    if isinstance(pending, Answer):
        return pending.body
    return pending.answer(await policy.service.answered(pending), writes)


async def begin(policy: ServedPolicy, id_: str, rows: int | None = None) -> None:
    observation = [1.0] if rows is None else [[1.0]] * rows
    body = json.dumps({"id": id_, "run_id": "r", "observation": observation}).encode()
    assert (await policy.sessions.begin(policy.policy, JSON, JSON, body))[0] == id_


@pytest.mark.parametrize("writes", [JSON, MSGPACK])
@pytest.mark.parametrize("rows", [None, 3])
async def test_both_ways_give_the_same_bytes(writes: Codec, rows: int | None) -> None:
    async with ServedPolicy.open() as policy:
        for id_ in ("slow", "fast"):
            await begin(policy, id_, rows)
        bodies: list[dict[str, Any]] = [{}, {"step": 2}, {"step": 2}, {"first": True}, {"step": 4, "run_id": "r"}]
        for more in bodies:
            body = json.dumps({"observation": [0.5] if rows is None else [[0.5]] * rows, **more}).encode()
            slow = await policy.sessions.step(policy.policy, "slow", JSON, writes, body)
            assert slow.media_type == writes.media_type
            assert slow.body == await by_fast_path(policy, "fast", JSON, writes, body)
        assert (await policy.sessions.describe(policy.policy, "slow"))["step"] == 4


async def test_large_answers_and_large_bodies_are_the_same_too() -> None:
    rows = 70_000
    async with ServedPolicy.open(rows_limit=rows) as policy:
        await begin(policy, "a", rows)
        body = MSGPACK.encode({"observation": np.ones((rows, 1), np.float32)})
        step = policy.sessions.step_at_once(policy.policy, "a", MSGPACK, JSON, body)
        assert isinstance(step, LargeMemoryStep)
        answer = await policy.sessions.step(policy.policy, "a", MSGPACK, JSON, body)
        assert json.loads(answer.body)["action"] == [[2.0]] * rows


async def test_same_step_asked_for_twice_at_once_is_done_once() -> None:
    async with ServedPolicy.open() as policy:
        await begin(policy, "a")
        body = b'{"observation":[1],"step":1}'
        one, other = await asyncio.gather(
            *(policy.sessions.step(policy.policy, "a", JSON, JSON, body) for _ in range(2))
        )
        assert one.body == other.body
        assert json.loads(one.body)["action"] == [2.0]
        without_number = b'{"observation":[1]}'
        outcomes = await asyncio.gather(
            *(policy.sessions.step(policy.policy, "a", JSON, JSON, without_number) for _ in range(2)),
            return_exceptions=True,
        )
        assert sorted(type(outcome) for outcome in outcomes if isinstance(outcome, Exception)) == [SessionConflict]


async def test_step_of_a_session_that_has_ended_is_refused_by_both() -> None:
    async with ServedPolicy.open() as policy:
        await begin(policy, "a")
        await policy.sessions.end(policy.policy, "a", "r")
        with pytest.raises(UnknownSession):
            await policy.sessions.step(policy.policy, "a", JSON, JSON, b'{"observation":[1]}')
        with pytest.raises(UnknownSession):
            policy.sessions.step_at_once(policy.policy, "a", JSON, JSON, b'{"observation":[1]}')


async def test_same_run_starts_fresh_where_another_policy_has_taken_the_name() -> None:
    store = MemoryStore(LIMITS, time.monotonic)
    async with ServedPolicy.open(store=store) as policy:
        await begin(policy, "a")
    wider = replace(SPEC, inputs={**SPEC.inputs, "observation": Leaf("0/observation", "float32", (2,))})  # type: ignore[dict-item]
    async with ServedPolicy.open(spec=wider, store=store) as policy:
        body = b'{"id":"a","run_id":"r","observation":[1,2]}'
        for _ in range(2):
            _, answer = await policy.sessions.begin(policy.policy, JSON, JSON, body)
            assert json.loads(answer.body)["action"] == [1, 2]
        await policy.sessions.step(policy.policy, "a", JSON, JSON, b'{"observation":[1,2],"step":1}')


class MemoryStoreWithRival(MemoryStore):
    """Another server starts each session first."""

    def __init__(self, rival: Record) -> None:
        super().__init__(LIMITS, time.monotonic)
        self._rival = rival

    async def begin(self, key: Key, before: Record | None, record: Record, client: str = "") -> bool:
        await super().begin(key, before, self._rival, client)
        return False


async def test_same_run_started_at_once_by_another_policy_of_the_name_is_a_conflict() -> None:
    own = MemoryStore(LIMITS, time.monotonic)
    async with ServedPolicy.open(store=own) as policy:
        await begin(policy, "a")
    record = own.find(Key("p", "a"))
    assert record is not None
    async with ServedPolicy.open(store=MemoryStoreWithRival(record)) as policy:
        await begin(policy, "a")
    other = structs.replace(record, run=structs.replace(record.run, policy="another"))
    async with ServedPolicy.open(store=MemoryStoreWithRival(other)) as policy:
        with pytest.raises(SessionConflict, match="another run has started it"):
            await begin(policy, "a")


async def test_short_answers_are_no_large_step() -> None:
    async with ServedPolicy.open() as policy:
        await begin(policy, "a")
        step = policy.sessions.step_at_once(policy.policy, "a", JSON, JSON, b'{"observation":[1]}')
        assert type(step) is MemoryStep


async def test_several_workers_without_a_store_have_no_sessions() -> None:
    async with ServedPolicy.open() as policy:
        sessions = Sessions(policy.service, None, rows_limit=4)
        assert not sessions.can_step_at_once
        with pytest.raises(Unsupported, match="POLICY_SERVER_SESSION_URL"):
            await sessions.step(policy.policy, "a", JSON, JSON, b"{}")
