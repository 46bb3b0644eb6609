"""One HTTP request by the standard library alone: what is sent may be an iterator, and is never in memory as a whole.

A trainer's environment has no HTTP client, and may not be given one: what those need is newer than what TensorFlow 2.15
can bear.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_CONNECT_S = 10
_SEND_S = 60
# A server that verifies a large checkpoint on a slow disk, or waits for a batch to end, answers late.
_ANSWER_S = 600
_UNFIT = re.compile(r"[\x00-\x20\x7f]")


class Unreachable(Exception):
    """No answer came; the message says why, in one line."""


@dataclass(frozen=True)
class Answer:
    """A server's response to a request for `url`."""

    url: str
    status: int
    reason: str
    body: bytes


def ask(method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes] = ()) -> Answer:
    """Sends a request and waits for its answer; redirections are not followed.

    Proxies are those of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`).

    Args:
      method: of the request.
      url: the whole address, http or https.
      headers: beside those that every request has; Content-Length where there is a body.
      body: the pieces of it.

    Raises:
      Unreachable: the address is none, nobody listens there, or no answer came.
    """
    try:
        with _connected(url) as (connection, target, more):
            _send(connection, method, target, {**headers, **more}, body)
            response = connection.getresponse()
            return Answer(url, response.status, response.reason, response.read())
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        said = str(error) or type(error).__name__
        raise Unreachable(" ".join(said.split())) from None


@contextlib.contextmanager
def _connected(url: str) -> Iterator[tuple[http.client.HTTPConnection, str, dict[str, str]]]:
    """A connection, what the request line names on it, and headers for a proxy."""
    parts = _parsed(url)
    secure = parts.scheme == "https"
    host, port = str(parts.hostname), parts.port or (443 if secure else 80)
    proxy = _proxy(parts.scheme, host)
    near = (host, port) if proxy is None else (str(proxy.hostname), proxy.port or 80)
    connection = (
        http.client.HTTPSConnection(*near, timeout=_CONNECT_S, context=ssl.create_default_context())
        if secure
        else http.client.HTTPConnection(*near, timeout=_CONNECT_S)
    )
    target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    more: dict[str, str] = {}
    if proxy is not None:
        access = _proxy_authorization(proxy)
        if secure:
            connection.set_tunnel(host, port, access)
        else:
            target, more = url, access
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(_SEND_S)
        yield connection, target, more


def _parsed(url: str) -> urllib.parse.SplitResult:
    if _UNFIT.search(url):
        raise ValueError("an address has no spaces and no control characters")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an address of the form http://HOST:PORT")
    if parts.username is not None:
        raise ValueError("expected an address without user and password")
    return parts


def _proxy(scheme: str, host: str) -> urllib.parse.SplitResult | None:
    found = urllib.request.getproxies()
    address = found.get(scheme) or found.get("all")
    if not address or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ValueError(f"the proxy {proxy.scheme}://{proxy.hostname or ''} is of a kind that is not known here")
    return proxy


def _proxy_authorization(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _send(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: Iterable[bytes]
) -> None:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    # A server that refuses may close before it has read everything, and its answer is there to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.endheaders()
        for piece in body:
            connection.send(piece)
    connection.sock.settimeout(_ANSWER_S)
