"""The client for programs that wait for each answer."""

from __future__ import annotations

import time
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


class RemotePolicy:
    """A policy that a policy server serves. Connections are kept open; any number of threads may share one.

    Every method raises a `PolicyError` where it gets no answer; policy_client/errors.py has the tree. A request
    without an answer is sent again first, which is safe for all of them: see `Retries`.

    Args:
      url: of the server, like "http://localhost:8000".
      policy: the policy's name; None for the server's default policy.
      token: of the data routes, if the server was started with one.
      timeout_s: how long one attempt waits for a connection, and for the next bytes of an answer.
      retries: how often, and for how long, a request is sent again.
      transport: another one than httpx makes, for proxies, certificates or Unix sockets.

    Raises:
      ValueError: `url` is no HTTP address.
    """

    def __init__(
        self,
        url: str,
        policy: str | None = None,
        *,
        token: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.calls = Calls(url, policy, token, timeout_s)
        self._retries = retries
        self._transport = transport or httpx.HTTPTransport(limits=LIMITS, trust_env=False, uds=self.calls.socket)
        self._is_closed = False

    def action(self, observation: Nest, **fields: Unpack[ActionFields]) -> Action:
        """The policy's action.

        Args:
          observation: the policy's nest, each leaf of its spec's shape; or a batch, [rows, …], all leaves alike.
          **fields: `policy_state`, `reward`, `discount`, `step_type`, and the options `mode`, `seed`, `log_prob`,
            `min_train_step`, `timeout_ms`, `version`: see policy_client/fields.py.

        Raises:
          DoesNotFit: something is not what the policy's spec says.
          Unsupported: an option that the export cannot honour.
          Conflict: no weights as new as `min_train_step`, or not that version.
          PolicyError: the others of the tree.
          TypeError: a field that does not exist, or a leaf that no tensor can hold.
        """
        return self.perform(self.calls.action(observation, fields))

    def distribution(self, observation: Nest, **fields: Unpack[DistributionFields]) -> Distribution:
        """The distribution of the policy's action; as `action`, but without the options of drawing."""
        return self.perform(self.calls.distribution(observation, fields))

    def get_initial_state(self, batch_size: int | None = None) -> Nest:
        """The policy state that an episode begins with: one, or leaves [batch_size, …]; [] if the policy has none."""
        return self.perform(self.calls.initial_state(batch_size))

    def describe(self) -> dict[str, Any]:
        """Fetches `GET /v1/policies/{policy}`: specs, signatures, engine, versions."""
        name = self.calls.policy
        if name is None:
            name = self.perform(self.calls.default_name())
        return self.perform(self.calls.description(name))

    def session(self, observation: Nest, **fields: Unpack[BeginFields]) -> Session:
        """Begins a session with the first observation of an episode, or of a vector of them.

        Args:
          observation: as that of `action`. The number of rows stays the same throughout.
          **fields: `id`, `run_id`, `weights`, and those of `action` but `policy_state`: see policy_client/fields.py.

        Raises:
          Unavailable: also where the server has no room for one more session, and none came free in time.
          PolicyError: as `action`.
        """
        calls = self.calls.session(fields)
        return Session(self, calls, self.perform(calls.begin(observation, fields)))

    def close(self) -> None:
        """Closes the connections; what another thread asks just then is not sent again.

        Sessions stay, until they are ended or have been idle for too long.
        """
        self._is_closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def perform(self, call: Call[T], retries: Retries | None = None) -> T:
        """Sends a call's request until it is answered, refused, or given up."""
        attempts = Attempts(call.request, self._retries if retries is None else retries)
        while True:
            try:
                response = self._exchange(call.request)
            except httpx.RequestError as error:
                wait_s = attempts.lost(error)
            else:
                if call.answered_by(response):
                    return call.result(response)
                wait_s = attempts.refused(response)
            time.sleep(wait_s)
            if self._is_closed:
                raise Unavailable(f"{call.request.method} {call.request.url}: closed before there was an answer")

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        """One attempt. Redirects, cookies and the like, for which httpx has clients, would only take time here."""
        response = self._transport.handle_request(request)
        try:
            response.read()
        except BaseException:
            response.close()
            raise
        return response


class Session(SessionHandle):
    """One episode, or a vector of them, whose policy state stays on the server. Made by `RemotePolicy.session`.

    As a context it ends itself. One thread at a time may step it.

    Attributes:
      answer: the newest `Action`; at the beginning, the one for the first observation.
    """

    def __init__(self, policy: RemotePolicy, calls: SessionCalls, answer: Action) -> None:
        super().__init__(calls, answer)
        self._policy = policy

    def step(self, observation: Nest, **fields: Unpack[StepFields]) -> Action:
        """The action for the next observation.

        Where it raises, the session is where it was, and the same step may be taken again. One that ended in
        `Unavailable` may have been done without us: taken again it gets the answer that it got then, whatever the
        observation is now.

        Args:
          observation: as that of the beginning, with the same number of rows.
          **fields: `reward`, `discount`, `first`, `step_type` and options: see policy_client/fields.py.

        Raises:
          NotFound: the session has ended, was idle for too long, or the server has started anew.
          Conflict: another run has taken the session over, or its weights are gone.
          PolicyError: as `RemotePolicy.action`.
        """
        return self._stepped(self._policy.perform(self._calls.next(observation, fields)))

    def describe(self) -> dict[str, Any]:
        """What the server knows: "id", "run_id", "step", "rows", "weights", "version", "train_step"."""
        return self._policy.perform(self._calls.description())

    def close(self) -> None:
        """Ends the session on the server; one that is gone has ended.

        Raises:
          Conflict: another run has taken the session over; it goes on.
          PolicyError: as `RemotePolicy.action`.
        """
        self._policy.perform(self._calls.end())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not isinstance(error, Unavailable):
            with suppress(PolicyError):  # what went wrong before is the news
                self._policy.perform(self._calls.end(), ONCE)
