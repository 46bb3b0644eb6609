"""Everything that a call of this client can raise, as one tree.

    PolicyError               the root; itself raised for an answer that is none (a redirect, a page of a proxy)
    ├── BadRequest            400, 413, 415: nothing that the server reads; or larger than it reads
    ├── Denied                401, 403: the token is missing or wrong
    ├── NotFound              404: no such policy, or no such session any more
    ├── Conflict              409: not the next step, another run's session, no weights as new as asked for
    ├── DoesNotFit            422: the input is not what the policy's spec says; `errors` lists each finding
    ├── Unsupported           501: the policy or its export cannot do that
    ├── DeadlinePassed        504: the server had no answer within `timeout_ms`
    ├── ServerFailed          500: a fault of the server
    └── Unavailable           no connection, no answer in time, 429, 502 or 503, and no attempt left

Whatever is raised, a session has not moved: the same step may be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import msgspec


class PolicyError(Exception):
    """A call that got no answer, or a refusal; the message says what was asked and what was wrong.

    Attributes:
      status: the HTTP status; None where there was no response at all.
      title, detail: those of the server's problem report; "" where there is none.
      errors: one {"where", "problem", "expected"} for each finding about the input.
      step: the last step of the session, where the server sent it (409 for a step that is not the next one).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        title: str = "",
        detail: str = "",
        errors: tuple[Mapping[str, str], ...] = (),
        step: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.step = step


class BadRequest(PolicyError):
    """400, 413, 415: the body is nothing that the server reads, or larger than it reads."""


class Denied(PolicyError):
    """401, 403: the token is missing or wrong."""


class NotFound(PolicyError):
    """404: no such policy; or no such session: ended, idle for too long, or the server has started anew."""


class Conflict(PolicyError):
    """409: not the session's next step, another run's session, or no weights as new, or of the version, as asked."""


class DoesNotFit(PolicyError):
    """422: the input is not what the policy's spec says."""


class Unsupported(PolicyError):
    """501: the policy, or its export, cannot do that."""


class DeadlinePassed(PolicyError):
    """504: the server had no answer before the deadline, `timeout_ms`."""


class ServerFailed(PolicyError):
    """500: a fault of the server; its log has the details."""


class Unavailable(PolicyError):
    """Given up: no connection, no answer in time, or too busy (429) or not ready (502, 503) at each attempt."""


BY_STATUS: dict[int, type[PolicyError]] = {
    400: BadRequest,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: BadRequest,
    415: BadRequest,
    422: DoesNotFit,
    429: Unavailable,
    500: ServerFailed,
    501: Unsupported,
    502: Unavailable,
    503: Unavailable,
    504: DeadlinePassed,
}
_LONGEST_QUOTE = 200


class _Problem(msgspec.Struct):
    """What is read of a problem report; what else stands in it is left alone."""

    title: str = ""
    detail: str = ""
    errors: list[dict[str, str]] = []
    step: Optional[int] = None  # noqa: UP045 - msgspec evaluates it, in Python 3.9 too


_PROBLEM = msgspec.json.Decoder(_Problem)


def error_of(asked: str, status: int, content: bytes) -> PolicyError:
    """The error for a response that is no answer.

    Args:
      asked: method and URL, for the message.
      status: the HTTP status.
      content: the body, a problem report (RFC 9457) if the server itself has written it.
    """
    kind = BY_STATUS.get(status, PolicyError)
    try:
        problem = _PROBLEM.decode(content)
    except msgspec.MsgspecError:
        quote = content[:_LONGEST_QUOTE].decode("utf-8", "replace").strip()
        return kind(f"{asked}: status {status}" + (f": {quote}" if quote else ""), status=status)
    lines = [f"{asked}: {status} {problem.title}: {problem.detail}"]
    if len(problem.errors) > 1:
        lines += [", ".join(f"{key} {value}" for key, value in finding.items()) for finding in problem.errors]
    return kind(
        "\n  ".join(lines),
        status=status,
        title=problem.title,
        detail=problem.detail,
        errors=tuple(problem.errors),
        step=problem.step,
    )


def unreadable(asked: str, status: int, reason: Any) -> PolicyError:
    """The error for a response of a good status that is not what the server writes."""
    return PolicyError(f"{asked}: status {status}, but the answer cannot be read: {reason}", status=status)
