"""Bearer tokens, compared in constant time; and the addresses of callers."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from fastapi import Request

from app.errors import Forbidden, Unauthorized
from app.settings import variable

# Of an IPv6 address, as providers give them to one customer.
_IPV6_BITS = 64
# On which nobody has an address.
UNIX_SOCKET = "unix"
# A name that a proxy gives instead of an address.
_LONGEST_HOST = 64
# Coroutines: FastAPI would give each call of a plain function a thread.
Guard = Callable[[Request], Awaitable[None]]


def admin_guard(token: str) -> Guard:
    """Makes a dependency that lets admin calls pass. Without a configured token none passes."""

    async def guard(request: Request) -> None:
        if not token:
            raise Forbidden(f"the admin routes are closed: set {variable('admin_token')} and start again")
        require_bearer(request.headers.get("authorization", ""), token)

    return guard


def data_guard(token: str) -> Guard:
    """Makes a dependency that lets data calls pass. Without a configured token all pass."""

    async def guard(request: Request) -> None:
        if token:
            require_bearer(request.headers.get("authorization", ""), token)

    return guard


def check_bearer(header: str, token: str) -> bool:
    """Returns whether the value of an Authorization header contains this token."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def check_api_key(header: str, token: str) -> bool:
    """Returns whether it contains this token as a bearer token, or as an API key, as OpenPI's clients send one."""
    scheme, _, given = header.partition(" ")
    return check_bearer(f"Bearer {given}" if scheme.lower() == "api-key" else header, token)


def client_of(request: Request) -> str:
    """Returns a client's address: that of the connection, or the one that a trusted proxy names.

    Those on the unix socket are one client.
    """
    return client_at(request.client.host if request.client is not None else UNIX_SOCKET)


def client_at(host: str) -> str:
    """Returns the address that a client counts by: of IPv6 the network, where a machine may take any of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:_LONGEST_HOST]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_BITS), strict=False))


def require_bearer(header: str, token: str) -> None:
    """Raises Unauthorized where the value of an Authorization header does not contain this token."""
    if check_bearer(header, token):
        return
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("no token: expected the header Authorization: Bearer <token>")
    raise Unauthorized("the token is wrong")
