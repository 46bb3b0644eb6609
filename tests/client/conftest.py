"""Both kinds of clients under one set of tests: the one on asyncio is driven from outside its loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from policy_client import AsyncRemotePolicy, AsyncSession, RemotePolicy, Retries

QUICK = Retries(limit=5, first_wait_s=0.001, longest_wait_s=0.01)


class _OnLoop:
    """Something with coroutines, for those who wait."""

    def __init__(self, runner: asyncio.Runner, target: Any) -> None:
        self._runner = runner
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._waiting(value) if asyncio.iscoroutinefunction(value) else value

    def _waiting(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any, **fields: Any) -> Any:
            answer = self._runner.run(ask(*arguments, **fields))
            return _OnLoop(self._runner, answer) if isinstance(answer, AsyncSession) else answer

        return wait

    def __enter__(self) -> _OnLoop:
        self._runner.run(self._target.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self._target.__aexit__(*error))


@pytest.fixture(params=["waiting", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client, which is closed after the test."""
    with ExitStack() as stack:

        def made(url: str, policy: str | None = "cartpole", **options: Any) -> Any:
            options = {"retries": QUICK} | options
            if request.param == "waiting":
                return stack.enter_context(RemotePolicy(url, policy, **options))
            runner = stack.enter_context(asyncio.Runner())
            return stack.enter_context(_OnLoop(runner, AsyncRemotePolicy(url, policy, **options)))

        yield made
