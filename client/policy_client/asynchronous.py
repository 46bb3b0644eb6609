"""The same client for programs on asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from policy_client.answers import Action, Distribution
from policy_client.calls import DEFAULT_TIMEOUT_S, LIMITS, ONCE, Call, Calls, SessionCalls, SessionHandle
from policy_client.errors import PolicyError, Unavailable
from policy_client.fields import ActionFields, BeginFields, DistributionFields, Nest, StepFields
from policy_client.retries import DEFAULT_RETRIES, Attempts, Retries

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")


class AsyncRemotePolicy:
    """`RemotePolicy` with coroutines: the same arguments, answers and errors. For one event loop.

    A call that is cancelled may have reached the server all the same.
    """

    def __init__(
        self,
        url: str,
        policy: str | None = None,
        *,
        token: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._calls = Calls(url, policy, token, timeout_s)
        self._retries = retries
        self._transport = transport or httpx.AsyncHTTPTransport(limits=LIMITS, trust_env=False, uds=self._calls.socket)

    async def action(self, observation: Nest, **fields: Unpack[ActionFields]) -> Action:
        """See `RemotePolicy.action`."""
        return await self.perform(self._calls.action(observation, fields))

    async def distribution(self, observation: Nest, **fields: Unpack[DistributionFields]) -> Distribution:
        """See `RemotePolicy.distribution`."""
        return await self.perform(self._calls.distribution(observation, fields))

    async def get_initial_state(self, batch_size: int | None = None) -> Nest:
        """See `RemotePolicy.get_initial_state`."""
        return await self.perform(self._calls.initial_state(batch_size))

    async def describe(self) -> dict[str, Any]:
        """See `RemotePolicy.describe`."""
        name = self._calls.policy
        if name is None:
            name = await self.perform(self._calls.default_name())
        return await self.perform(self._calls.description(name))

    async def session(self, observation: Nest, **fields: Unpack[BeginFields]) -> AsyncSession:
        """See `RemotePolicy.session`; for a context: `async with await policy.session(observation) as session`."""
        calls = self._calls.session(fields)
        return AsyncSession(self, calls, await self.perform(calls.begin(observation, fields)))

    async def close(self) -> None:
        """See `RemotePolicy.close`."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def perform(self, call: Call[T], retries: Retries | None = None) -> T:
        """See `RemotePolicy.perform`."""
        attempts = Attempts(call.request, self._retries if retries is None else retries)
        while True:
            try:
                response = await self._exchange(call.request)
            except httpx.RequestError as error:
                wait_s = attempts.lost(error)
            else:
                if call.answered_by(response):
                    return call.result(response)
                wait_s = attempts.refused(response)
            await asyncio.sleep(wait_s)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        """One attempt. Redirects, cookies and the like, for which httpx has clients, would only take time here."""
        response = await self._transport.handle_async_request(request)
        try:
            await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response


class AsyncSession(SessionHandle):
    """`Session` with coroutines. One task at a time may step it."""

    def __init__(self, policy: AsyncRemotePolicy, calls: SessionCalls, answer: Action) -> None:
        super().__init__(calls, answer)
        self._policy = policy

    async def step(self, observation: Nest, **fields: Unpack[StepFields]) -> Action:
        """See `Session.step`; one that was cancelled may be taken again too."""
        return self._stepped(await self._policy.perform(self._calls.next(observation, fields)))

    async def describe(self) -> dict[str, Any]:
        """See `Session.describe`."""
        return await self._policy.perform(self._calls.description())

    async def close(self) -> None:
        """See `Session.close`."""
        await self._policy.perform(self._calls.end())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        elif not isinstance(error, Unavailable):
            with suppress(PolicyError):  # what went wrong before is the news
                await self._policy.perform(self._calls.end(), ONCE)
