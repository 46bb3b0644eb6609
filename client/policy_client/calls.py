"""Arguments of a call → the request to send, and how its answer is read. No I/O: both kinds of clients share this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

import httpx
import numpy as np

from policy_client import answers
from policy_client.answers import Action, Distribution, ExperienceBatch
from policy_client.errors import unreadable
from policy_client.fields import ActionFields, BeginFields, DistributionFields, Nest, StepFields, body_of
from policy_client.retries import Retries
from policy_client.version import __version__
from policy_client.wire import MEDIA_TYPE, encode

T = TypeVar("T")

# The server answers within its deadline, 10 s if nobody says otherwise; the answer has this long to arrive.
_TRAVEL_S = 1.0
DEFAULT_TIMEOUT_S = 10.0 + _TRAVEL_S
# Sixteen times as many threads or tasks as a simulator usually has; more wait for each other.
LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=256, keepalive_expiry=4.0)
_UNIX = "http+unix://"
_USER_AGENT = f"policy-client/{__version__}".encode()
ONCE = Retries(limit=0)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what its answer's body means. `gone_is_done`: 404 is an answer, without a body."""

    request: httpx.Request
    read: Callable[[bytes], T]
    gone_is_done: bool = False

    def answered_by(self, response: httpx.Response) -> bool:
        """Whether this is the answer; else it is a refusal."""
        return 200 <= response.status_code < 300 or (self.gone_is_done and response.status_code == 404)

    def result(self, response: httpx.Response) -> T:
        """What the answer says.

        Raises:
          PolicyError: it cannot be read.
        """
        try:
            return self.read(response.content)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            asked = f"{self.request.method} {self.request.url}"
            raise unreadable(asked, response.status_code, f"{type(error).__name__}: {error}") from error


def _socket_of(url: str) -> tuple[str | None, str]:
    """Returns the path of the unix socket in a URL, if it is of that kind, and the URL to send requests to."""
    if not url.startswith(_UNIX):
        return None, url
    path, _, mounted = url[len(_UNIX) :].partition("/")
    if not unquote(path).startswith("/"):
        raise ValueError(
            f"{url!r} is no address of a unix socket; expected its path percent-encoded: http+unix://%2Frun%2Fpolicy.sock"
        )
    return unquote(path), f"http://localhost/{mounted}"


class Calls:
    """The calls of one policy of a server.

    Args:
      url: of the server, "http://host:port", with the path that it is mounted at if there is one; or
        "http+unix://%2Frun%2Fpolicy.sock", with the percent-encoded path of a unix socket for host and port.
      policy: the policy's name; None for the server's default policy.
      token: of the data routes; "" for none.
      timeout_s: how long an attempt waits: for a connection, and for the next bytes of the answer.

    Raises:
      ValueError: `url` is no HTTP address.
    """

    def __init__(self, url: str, policy: str | None, token: str, timeout_s: float) -> None:
        # The path of a unix socket; None where the server is reached by host and port.
        self.socket, address = _socket_of(url)
        base = httpx.URL(address)
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"{url!r} is no address of a server; expected one like http://localhost:8000")
        self.policy = policy
        self._timeout_s = timeout_s
        self._timeout = httpx.Timeout(timeout_s).as_dict()
        self._base = address.rstrip("/")
        self._root = self._base if policy is None else f"{self._base}/v1/policies/{quote(policy, safe='')}"
        self._headers = [
            (b"Host", base.netloc),
            (b"User-Agent", _USER_AGENT),
            (b"Accept", MEDIA_TYPE.encode()),
            (b"Content-Type", MEDIA_TYPE.encode()),
        ]
        if token:
            self._headers.append((b"Authorization", b"Bearer " + token.encode()))
        self._action = self.url("action")
        self._distribution = self.url("distribution")
        self._initial_state = self.url("get_initial_state")

    def url(self, path: str) -> httpx.URL:
        """Of a path under the policy."""
        return httpx.URL(f"{self._root}/{path}")

    def action(self, observation: Nest, fields: ActionFields) -> Call[Action]:
        """The policy's action for an observation."""
        body = body_of(observation, fields, ActionFields)
        return Call(self.post(self._action, body), answers.read_action)

    def distribution(self, observation: Nest, fields: DistributionFields) -> Call[Distribution]:
        """Its distribution."""
        body = body_of(observation, fields, DistributionFields)
        return Call(self.post(self._distribution, body), answers.read_distribution)

    def initial_state(self, batch_size: int | None) -> Call[Nest]:
        """One unbatched state, or a batch of them."""
        body = {} if batch_size is None else {"batch_size": batch_size}
        return Call(self.post(self._initial_state, body), answers.read_state)

    def default_name(self) -> Call[str]:
        """The name of the server's default policy."""
        return Call(self._bare("GET", httpx.URL(f"{self._base}/v1/policies")), answers.read_default_name)

    def description(self, name: str) -> Call[dict[str, Any]]:
        """Everything about the policy of that name."""
        url = httpx.URL(f"{self._base}/v1/policies/{quote(name, safe='')}")
        return Call(self._bare("GET", url), answers.read_description)

    def experience(self, query: Mapping[str, Any], wait_ms: int) -> Call[ExperienceBatch]:
        """Rows behind a cursor. `query`: the parameters; None leaves one out."""
        url = self.url("experience").copy_merge_params(
            {
                name: str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in {**query, "wait_ms": wait_ms}.items()
                if value is not None
            }
        )
        request = self._bare("GET", url)
        request.headers["Accept"] = MEDIA_TYPE
        read_s = max(self._timeout_s, wait_ms / 1000 + _TRAVEL_S)
        request.extensions["timeout"] = httpx.Timeout(self._timeout_s, read=read_s).as_dict()
        return Call(request, answers.read_experience)

    def session(self, fields: BeginFields) -> SessionCalls:
        """Those of a session that has not begun."""
        return SessionCalls(self, fields.get("id") or uuid4().hex, fields.get("run_id") or uuid4().hex)

    def post(self, url: httpx.URL, body: dict[str, Any]) -> httpx.Request:
        """A request with a body."""
        content = encode(body)
        headers = [*self._headers, (b"Content-Length", b"%d" % len(content))]
        timeout_ms = body.get("options", {}).get("timeout_ms")
        timeout = self._timeout
        if timeout_ms is not None:
            read_s = max(self._timeout_s, timeout_ms / 1000 + _TRAVEL_S)
            timeout = httpx.Timeout(self._timeout_s, read=read_s).as_dict()
        # With a stream httpx leaves the headers as they are.
        stream = httpx.ByteStream(content)
        return httpx.Request("POST", url, headers=headers, stream=stream, extensions={"timeout": timeout})

    def _bare(self, method: str, url: httpx.URL) -> httpx.Request:
        headers = [(name, value) for name, value in self._headers if name not in (b"Accept", b"Content-Type")]
        stream = httpx.ByteStream(b"")
        return httpx.Request(method, url, headers=headers, stream=stream, extensions={"timeout": self._timeout})

    def delete(self, url: httpx.URL) -> Call[None]:
        """An ending: what is gone has ended."""
        return Call(self._bare("DELETE", url), answers.read_nothing, gone_is_done=True)

    def get(self, url: httpx.URL) -> Call[dict[str, Any]]:
        """Reads a JSON object."""
        return Call(self._bare("GET", url), answers.read_description)


class SessionCalls:
    """The calls of one session. Each has the run and, but for the ending, the step, so that it may be repeated.

    Attributes:
      id, run_id: of the session.
      step: the last one that was answered; 0 is the beginning.
    """

    def __init__(self, calls: Calls, id: str, run_id: str) -> None:  # noqa: A002
        self.id = id
        self.run_id = run_id
        self.step = 0
        self._calls = calls
        self._sessions = calls.url("sessions")
        self._session = calls.url(f"sessions/{quote(id, safe='')}")
        self._steps = calls.url(f"sessions/{quote(id, safe='')}/action")

    def begin(self, observation: Nest, fields: BeginFields) -> Call[Action]:
        """The first observation."""
        body = body_of(observation, fields, BeginFields) | {"id": self.id, "run_id": self.run_id}
        return Call(self._calls.post(self._sessions, body), answers.read_action)

    def next(self, observation: Nest, fields: StepFields) -> Call[Action]:
        """The step after the last that was answered."""
        body = body_of(observation, fields, StepFields)
        if "first" in body:
            body["first"] = np.asarray(body["first"], bool).tolist()
        body["run_id"] = self.run_id
        body["step"] = self.step + 1
        return Call(self._calls.post(self._steps, body), answers.read_action)

    def end(self) -> Call[None]:
        """The ending, of this run's session only."""
        return self._calls.delete(self._session.copy_set_param("run_id", self.run_id))

    def description(self) -> Call[dict[str, Any]]:
        """What the server knows of the session."""
        return self._calls.get(self._session)


class SessionHandle:
    """What both kinds of sessions know without asking.

    Attributes:
      answer: the newest `Action`; at the beginning, the one for the first observation.
    """

    def __init__(self, calls: SessionCalls, answer: Action) -> None:
        self.answer = answer
        self._calls = calls

    @property
    def id(self) -> str:
        """The session's name on the server."""
        return self._calls.id

    @property
    def run_id(self) -> str:
        """Which run of the simulator this is."""
        return self._calls.run_id

    def _stepped(self, answer: Action) -> Action:
        """The step was answered."""
        self._calls.step += 1
        self.answer = answer
        return answer
