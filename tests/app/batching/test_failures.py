import asyncio
import logging

import pytest

from app.batching.failures import explained, fail, fail_all
from app.batching.rule import Job, Result
from app.engine.base import InputRefused
from app.errors import EngineFailed, NotReady

pytestmark = pytest.mark.anyio


def waiting() -> tuple[Job, asyncio.Future[Result]]:
    waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    return Job("action", {}, 1, waiter=waiter), waiter


def test_callers_see_no_error_of_the_engine_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "policy_server.batching"):
        found = explained(RuntimeError("/secret/path"))
    assert isinstance(found, EngineFailed)
    assert str(found) == "the policy failed: RuntimeError"
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("error", [NotReady("paused"), InputRefused("no number")])
def test_errors_that_are_for_callers_stay_as_they_are(error: Exception) -> None:
    assert explained(error) is error


async def test_what_nobody_waits_for_is_not_failed() -> None:
    (job, waiter), (other, gone) = waiting(), waiting()
    gone.cancel()
    fail_all([job, other], NotReady("stopping"))
    with pytest.raises(NotReady, match="stopping"):
        await waiter
    assert gone.cancelled()
    fail(job, NotReady("once more"))
    assert str(waiter.exception()) == "stopping"
