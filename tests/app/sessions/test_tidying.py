"""Sessions are tidied again and again, whatever a round comes to; a store that is away is logged once."""

import logging
from types import SimpleNamespace

import pytest

from app.errors import NotReady, Overloaded
from app.sessions import tidying as module
from app.sessions.tidying import TIDY_S, call_now_and_then

pytestmark = pytest.mark.anyio

AWAY = NotReady("the store of sessions cannot be reached")


class Over(BaseException):
    """Ends the rounds, as a cancellation does."""


class Rounds:
    """Rounds that come to what is given, without the time between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.recorded: list[int] = []
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=self._sleep))

    async def run(self, *outcomes: int | Exception) -> None:
        """Raises `Over` itself where a round ends what should go on."""
        left: list[int | BaseException] = [*outcomes, Over()]

        async def tidy() -> int:
            self.did.append("tidy")
            outcome = left.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        with pytest.raises(Over):
            await call_now_and_then(tidy, self.recorded.append)
        assert left == []

    async def _sleep(self, seconds: float) -> None:
        self.did.append(f"wait {seconds}")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Rounds:
    caplog.set_level(logging.WARNING, "policy_server")
    return Rounds(monkeypatch)


async def test_what_each_round_returns_is_recorded_and_before_each_there_is_a_wait(rounds: Rounds) -> None:
    await rounds.run(3, 0, 7)
    assert rounds.recorded == [3, 0, 7]
    assert rounds.did == [f"wait {TIDY_S}", "tidy"] * 4


async def test_a_store_that_is_away_is_logged_once_until_it_was_there_again(
    rounds: Rounds, caplog: pytest.LogCaptureFixture
) -> None:
    await rounds.run(AWAY, AWAY, 1, AWAY, AWAY)
    assert rounds.recorded == [1]
    assert caplog.messages == [str(AWAY)] * 2
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_a_bug_is_logged_each_time_with_where_it_is_and_the_next_round_comes(
    rounds: Rounds, caplog: pytest.LogCaptureFixture
) -> None:
    await rounds.run(KeyError("a bug"), Overloaded("no"), 5)
    assert rounds.recorded == [5]
    assert caplog.messages == ["sessions cannot be tidied"] * 2
    assert [record.exc_info is not None and record.exc_info[0] for record in caplog.records] == [KeyError, Overloaded]


async def test_a_bug_while_the_store_is_away_does_not_have_it_logged_again(
    rounds: Rounds, caplog: pytest.LogCaptureFixture
) -> None:
    await rounds.run(AWAY, KeyError("a bug"), AWAY)
    assert caplog.messages == [str(AWAY), "sessions cannot be tidied"]
