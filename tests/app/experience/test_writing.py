"""Steps of sessions are recorded where they should be; what cannot be is counted, said once, and costs no answer."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from app.batching.cork import Cork
from app.batching.rule import Job, Result
from app.errors import Unsupported
from app.experience.episode_writer import EpisodeWriter
from app.experience.following import Follower
from app.experience.writing import StepWriter, StepWriters
from app.inputs.options import Options
from app.metrics import Metrics
from app.sessions.record import Answer
from app.settings import Settings
from app.wire.codecs import JSON
from tests.support.recorded_steps import RowsInMemory
from tests.support.session_policy import SPEC, ServedPolicy

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def recording(folder: Path, share: float = 1.0) -> AsyncIterator[tuple[ServedPolicy, StepWriter]]:
    settings = Settings(policies=(), experience_dir=str(folder), experience_share=share)
    writers = StepWriters(settings, Metrics(), Cork())
    async with ServedPolicy.open(writers=writers) as policy:
        writer = writers.of("p", SPEC)
        assert writer is not None
        yield policy, writer
    writers.close()


async def begin(policy: ServedPolicy, id_: str, **more: Any) -> None:
    body = json.dumps({"id": id_, "run_id": "r", "observation": [0.5], **more}).encode()
    await policy.sessions.begin(policy.policy, JSON, JSON, body)


async def step(policy: ServedPolicy, id_: str, number: int, fast: bool = False) -> bytes:
    body = json.dumps({"observation": [number], "step": number, "reward": number / 2}).encode()
    if not fast:
        return (await policy.sessions.step(policy.policy, id_, JSON, JSON, body)).body
    pending = policy.sessions.step_at_once(policy.policy, id_, JSON, JSON, body)
    return pending.body if isinstance(pending, Answer) else pending.answer(await policy.service.answered(pending), JSON)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    rows = RowsInMemory()
    follower = Follower(folder / "p", SPEC, rows)
    follower.advance()
    assert follower.lost_events == 0
    return rows.rows


async def test_steps_of_both_ways_and_answers_sent_again_are_rows_once(tmp_path: Path) -> None:
    async with recording(tmp_path) as (policy, writer):
        await begin(policy, "a")
        await begin(policy, "a")
        for number in range(1, 6):
            first = await step(policy, "a", number, fast=number % 2 == 0)
            assert await step(policy, "a", number, fast=number % 3 == 0) == first
        rows = rows_in(tmp_path)
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
        assert [row["reward"] for row in rows] == [0.5, 1, 1.5, 2, 2.5]
        assert [row["observation"] for row in rows] == [[0.5], [1], [2], [3], [4]]
        assert [row["action"] for row in rows] == [[0.5], [1.5], [3.5], [6.5], [10.5]]
        assert {(row["session"], row["run_id"], row["version"]) for row in rows} == {("a", "r", "v0")}
        assert writer.take_counts() == (6, Counter())


async def test_steps_of_batches_are_rows_once_and_in_their_order_wherever_a_file_ends(tmp_path: Path) -> None:
    cork, sessions, steps = Cork(), "abc", 400
    settings = Settings(policies=(), experience_dir=str(tmp_path), experience_bytes_limit=2**20)
    writers = StepWriters(settings, Metrics(), cork)
    async with ServedPolicy.open(writers=writers) as policy:
        for id_ in sessions:
            await begin(policy, id_)
        for number in range(1, steps):
            body = json.dumps({"observation": [number], "step": number}).encode()
            ask = policy.sessions.step_at_once
            pending: list[Any] = [ask(policy.policy, id_, JSON, JSON, body) for id_ in sessions]
            results = [await policy.service.answered(one) for one in pending]
            if number == 7:
                outputs = results[1].outputs
                results[1] = type(results[1])(outputs | {"action": outputs["action"][:, :0]}, "v0", 0, "d0")

            def deliver(pending: list[Any] = pending, results: list[Any] = results) -> None:
                for one, result in zip(pending, results, strict=True):
                    one.answer(result, JSON)

            cork.run([deliver])
        writer = writers.of("p", SPEC)
        assert writer is not None
        assert writer.take_counts() == (steps * len(sessions), Counter({"error": 1}))
        assert len(list(tmp_path.rglob("*.journal"))) > 1
        rows = RowsInMemory()
        Follower(tmp_path / "p", SPEC, rows).advance()
        for id_ in sessions:
            # A step of "b" is not there, nor what it was the end of.
            expected = [n for n in range(steps - 1) if id_ != "b" or n not in (6, 7)]
            assert [row["step"] for row in rows.rows if row["session"] == id_] == expected
    writers.close()


async def test_session_says_whether_it_is_recorded_and_else_the_share(tmp_path: Path) -> None:
    async with recording(tmp_path, share=0.0) as (policy, _):
        for id_, more in (("left", {}), ("on", {"record": True}), ("off", {"record": False})):
            await begin(policy, id_, **more)
            await step(policy, id_, 1)
        assert {row["session"] for row in rows_in(tmp_path)} == {"on"}
    async with recording(tmp_path / "all") as (policy, _):
        for id_, more in (("left", {}), ("off", {"record": False})):
            await begin(policy, id_, **more)
            await step(policy, id_, 1)
        assert {row["session"] for row in rows_in(tmp_path / "all")} == {"left"}


async def test_session_that_has_to_be_recorded_is_refused_where_nothing_is() -> None:
    async with ServedPolicy.open() as policy:
        with pytest.raises(Unsupported, match="POLICY_SERVER_EXPERIENCE_DIR"):
            await begin(policy, "a", record=True)
        await begin(policy, "a", record=False)
        await begin(policy, "b")


async def test_folder_that_cannot_be_used_costs_steps_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.experience.journal._AGAIN_S", 0.0)
    (tmp_path / "p").write_text("in the way")
    async with recording(tmp_path) as (policy, writer):
        with caplog.at_level(logging.WARNING, "policy_server.experience"):
            await begin(policy, "a")
            for number in range(1, 5):
                assert json.loads(await step(policy, "a", number))["step"] == number
            assert writer.take_counts() == (5, Counter({"disk": 5}))
            assert [record.levelname for record in caplog.records] == ["ERROR"]
            (tmp_path / "p").unlink()
            for number in range(5, 8):
                await step(policy, "a", number)
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert writer.take_counts() == (3, Counter())
        rows = RowsInMemory()
        follower = Follower(tmp_path / "p", SPEC, rows)
        follower.advance()
        follower.advance()
        assert [row["step"] for row in rows.rows] == [5, 6]
        assert follower.lost_events == 1
        shutil.rmtree(tmp_path / "p")


async def test_step_that_does_not_fit_its_spec_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with recording(tmp_path) as (policy, writer):
        await begin(policy, "a")
        for number in range(1, 4):
            body = b'{"observation":[1],"step":%d}' % number
            pending = policy.sessions.step_at_once(policy.policy, "a", JSON, JSON, body)
            assert not isinstance(pending, Answer)
            result = await policy.service.answered(pending)
            wrong = {**result.outputs, "action": result.outputs["action"][:, :0]}
            assert pending.answer(type(result)(wrong, "v0", 0, "d0"), JSON)
        assert writer.take_counts()[1]["error"] == 3
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def of_two_rows(result: Result) -> Result:
    outputs = {name: np.repeat(array, 2, axis=0) for name, array in result.outputs.items()}
    return structs.replace(result, outputs=outputs)


async def test_episodes_of_a_connection_are_starts_of_its_session(tmp_path: Path) -> None:
    async with recording(tmp_path) as (policy, writer):
        episodes = EpisodeWriter(writer)
        await begin(policy, "other", record=False)
        pending = policy.sessions.step_at_once(policy.policy, "other", JSON, JSON, b'{"observation":[1]}')
        assert not isinstance(pending, Answer)
        result = await policy.service.answered(pending)
        options = pending._step.options
        for begins, name in ((True, None), (False, None), (False, None), (True, None), (False, None), (True, "x")):
            episodes.write(begins, name, options, pending.job, result, 0)
        episodes.write(False, "x", options, pending.job, result, 1)
        rows = rows_in(tmp_path)
        assert [row["step"] for row in rows] == [0, 1, 0, 0]
        assert len({row["incarnation"] for row in rows}) == 3
        assert [row["session"] == "x" for row in rows] == [False, False, False, True]


async def test_a_seed_is_recorded_where_it_gives_the_noise_with_the_step_of_the_row(tmp_path: Path) -> None:
    async with recording(tmp_path) as (policy, writer):
        await begin(policy, "other", record=False)
        pending = policy.sessions.step_at_once(policy.policy, "other", JSON, JSON, b'{"observation":[1]}')
        assert not isinstance(pending, Answer)
        result, seeded = await policy.service.answered(pending), Options(seed=7)
        one, two = (Job("sample", {}, rows, False) for rows in (1, 2))
        greedy = Job("greedy", {}, 1, False)
        episodes, results = EpisodeWriter(writer), {1: result, 2: of_two_rows(result)}
        # Rows that are another number start a row's steps anew, and not those of the noise.
        asked = [(one, 0), (one, 1), (one, 0), (greedy, 0), (one, 4), (two, 5), (two, 6), (two, 1), (two, 3), (two, 9)]
        for at, (job, noise_step) in enumerate(asked):
            episodes.write(at == 0, None, seeded, job, results[job.rows], noise_step)
        rows = [(row["step"], row["row"], row["mode"], row["seed"]) for row in rows_in(tmp_path)]
        assert rows[:4] == [(0, 0, "sample", 7), (1, 0, "sample", 7), (2, 0, "sample", -1), (3, 0, "greedy", 7)]
        assert [row[-1] for row in rows[4:]] == [-1, -1, -1, -1, -1, -1, 7, 7]
