"""Single requests to a server that is to be measured: whether it is there, and whether it answers well."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing

from bench import BenchError
from bench.serving.payloads import Payload

_CALL_S = 60


def is_listening(port: int) -> bool:
    """Whether somebody answers there, whatever.

    Raises:
      BenchError: nobody does.
    """
    return _call(port, "GET", "/", b"", {})[0] > 0


def accepts(port: int) -> bool:
    """Whether a connection is taken there.

    Raises:
      BenchError: none is.
    """
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_CALL_S).close()
    except OSError as error:
        raise BenchError(f"port {port}: {error}") from None
    return True


def check_answer(port: int, path: str, asked: Payload) -> bytes:
    """One request, which has to be answered well; the answer.

    Raises:
      BenchError: it is not.
    """
    status, answer = _call(port, "POST", path, asked.body, {"Content-Type": asked.media_type, **dict(asked.fields)})
    if status // 100 != 2:
        raise BenchError(f"answers {status}: {answer[:200].decode(errors='replace')}")
    return answer


def _call(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_S)) as connection:
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{method} {path}: {error or type(error).__name__}") from None
