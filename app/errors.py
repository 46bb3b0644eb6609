"""Everything that can go wrong, as one tree.

    PolicyServerError
    ├── Refusal                   the caller's cause; nothing has changed
    │   ├── NotJson               the body is no JSON object
    │   ├── NotMsgpack            the body is no msgpack map
    │   ├── NotHttp               what was sent is no HTTP request
    │   ├── NotWebSocket          a request that does not become a WebSocket, where one is expected
    │   ├── NotDecodable          the body is not what its Content-Encoding says
    │   ├── Malformed             no request of the protocol that its path belongs to
    │   ├── Unauthorized          no token, or a wrong one
    │   ├── Forbidden             the routes are closed: no token is configured
    │   ├── UnknownPolicy
    │   ├── UnknownVersion
    │   ├── UnknownSession
    │   ├── SequenceNotStarted    the same in the Open Inference Protocol, where a sequence has to be started
    │   ├── SessionConflict       not the next step of the session, or another run's
    │   ├── WeightsGone           those that an episode started with
    │   ├── VersionNotLoaded      the one that a request asks for
    │   ├── SwapRefused           a checkpoint that may not serve
    │   ├── TooOld                no weights as new as `min_train_step` asks
    │   ├── RequestTimeout        the client stopped in the middle of its request
    │   ├── BodyTooLarge
    │   ├── TargetTooLong
    │   ├── HeadTooLarge
    │   ├── UnknownEncoding       a Content-Encoding that is not decoded
    │   ├── UnknownMediaType
    │   ├── DoesNotFit            the input is not what the policy's spec says; lists every `Problem`
    │   ├── Overloaded            the queue is full, or there is no room for a session
    │   ├── Unsupported           this policy cannot do that
    │   ├── NotReady              no weights yet, paused, shutting down, or what servers share cannot be used
    │   ├── FleetLost             nothing can be changed in the fleet now
    │   ├── ClientGone            the client has closed its connection
    │   └── DeadlinePassed
    └── Fault                     our cause
        ├── EngineFailed          the compiled policy raised
        ├── LinkLost              another process of this server is gone, for now
        └── UnusablePolicy        a folder given at start is no policy that can be served

`app/api/problems.py` has the one table from here to HTTP statuses.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class PolicyServerError(Exception):
    """The root of the tree. The message is for the person who caused it."""

    def __str__(self) -> str:
        """Returns the message, as JSON can have it."""
        return readable(super().__str__())


class Refusal(PolicyServerError):
    """The caller's cause; nothing has changed."""


class NotJson(Refusal):
    """The body is no JSON object; `is_json`: but JSON of another kind."""

    def __init__(self, message: str = "", is_json: bool = False) -> None:
        super().__init__(message)
        self.is_json = is_json


class NotMsgpack(Refusal):
    """The body is no msgpack map."""


class NotHttp(Refusal):
    """What was sent is no HTTP request."""


class NotWebSocket(Refusal):
    """A request that does not become a WebSocket, where one is expected."""


class NotDecodable(Refusal):
    """The body is not what its Content-Encoding says."""


class Malformed(Refusal):
    """No request of the protocol that its path belongs to."""


class Unauthorized(Refusal):
    """No token, or a wrong one."""


class Forbidden(Refusal):
    """The routes are closed until a token is configured."""


class UnknownPolicy(Refusal):
    """No policy of that name is served."""


class UnknownVersion(Refusal):
    """No checkpoint of that name is there."""


class UnknownSession(Refusal):
    """No session of that id, or no more."""


class SequenceNotStarted(Refusal):
    """No sequence of that id has been started, or no more: what `UnknownSession` is in the Open Inference Protocol."""


class SessionConflict(Refusal):
    """Not the next step of the session, or another run's; `step` is its last one."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class WeightsGone(Refusal):
    """The weights that an episode started with are not kept here."""


class VersionNotLoaded(Refusal):
    """The version that a request asks for is not loaded here."""


class SwapRefused(Refusal):
    """A checkpoint that may not serve; the active version serves on.

    `for_now`: the checkpoint is not to blame, and may serve later. `no_room`: the disk is full.
    """

    def __init__(self, message: str, for_now: bool = False) -> None:
        super().__init__(message)
        self.for_now = for_now
        self.no_room = False


class TooOld(Refusal):
    """No weights as new as `min_train_step` asks."""


class RequestTimeout(Refusal):
    """The client stopped in the middle of its request."""


class BodyTooLarge(Refusal):
    """More bytes than the server reads."""


class TargetTooLong(Refusal):
    """A request's target with more bytes than the server reads."""


class HeadTooLarge(Refusal):
    """A request's head with more bytes, or more fields, than the server reads."""


class UnknownEncoding(Refusal):
    """A content encoding that is not decoded; `accepted` are those that are."""

    def __init__(self, message: str, accepted: str = "identity") -> None:
        super().__init__(message)
        self.accepted = accepted


class UnknownMediaType(Refusal):
    """A content type that no codec reads."""


class Incomplete(Exception):
    """A checkpoint that may still be being written; the message says what is missing. No caller ever sees it.

    `settled`: nothing in it has changed lately, so that waiting is not worth it.
    """

    def __init__(self, message: str, settled: bool) -> None:
        super().__init__(message)
        self.settled = settled


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: the field (with indices), what came, what was expected."""

    where: str
    problem: str
    expected: str


class DoesNotFit(Refusal):
    """The input is not what the policy's spec says."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        others = len(self.problems) - 1
        more = f"; {others} more error{'s' if others > 1 else ''}" if others else ""
        super().__init__(f"{first.where}: {first.problem}; expected {first.expected}{more}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Returns how it is made again, in another process."""
        return type(self), (self.problems,)


class Overloaded(Refusal):
    """The queue is full, or there is no room for a session; `retry_after_s` says when to come again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unsupported(Refusal):
    """The policy cannot do that."""


class NotReady(Refusal):
    """No weights yet, paused, shutting down, or the sessions' store or the fleet cannot be used.

    `retry_after_s`: when to come again, 0 where that is not known.
    """

    def __init__(self, message: str = "", retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FleetLost(Refusal):
    """Nothing can be agreed on in the fleet now: Redis cannot be used, or this server does not take part.

    `is_committed`: what was to be agreed on counts all the same; but not all servers are known to follow.
    """

    def __init__(self, message: str, is_committed: bool = False) -> None:
        super().__init__(message)
        self.is_committed = is_committed


class ClientGone(Refusal):
    """The client has closed its connection: no answer can reach it."""


class DeadlinePassed(Refusal):
    """The answer was not there in time."""


class Fault(PolicyServerError):
    """The server's cause."""


class EngineFailed(Fault):
    """The compiled policy raised."""


class LinkLost(Fault):
    """The other process is gone; whether it did what it was asked to is unknown."""


class UnusablePolicy(Fault):
    """A folder given at start is no policy that can be served."""


# The machine's trouble, or a file server's, and not that of what was read: the same may succeed a moment later.
_PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}
    | {errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EACCES}
)
# TensorFlow raises the system's errors as classes of its own, some named only in the text.
_PASSING_NAMES = frozenset({"ResourceExhaustedError", "UnavailableError"})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def readable(text: str) -> str:
    """Returns a text as JSON can have it: names of files may have bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def is_passing(error: BaseException) -> bool:
    """Returns whether an error, or one of its causes, is the machine's and passes: too few descriptors, say."""
    return any(isinstance(each, MemoryError) or _is_one_of(each, _PASSING, _PASSING_NAMES) for each in _chain(error))


def is_lack_of_room(error: BaseException) -> bool:
    """Returns whether an error, or one of its causes, says that the disk is full."""
    return any(_is_one_of(each, _NO_ROOM, frozenset()) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_one_of(error: BaseException, numbers: frozenset[int], names: frozenset[str]) -> bool:
    if isinstance(error, OSError):
        return error.errno in numbers
    kind = type(error)
    named = any(os.strerror(number) in str(error) for number in numbers)
    return kind.__module__.startswith("tensorflow") and (kind.__name__ in names or named)
