"""Tokens, and the addresses of clients."""

from types import SimpleNamespace

import pytest

from app.api.access import admin_guard, check_bearer, client_of, data_guard
from app.errors import Forbidden, Unauthorized


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("_hidden", "_hidden"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_a_client_is_its_address_or_its_network(host, client):
    assert client_of(SimpleNamespace(client=SimpleNamespace(host=host))) == client


def test_a_client_without_an_address_is_on_the_unix_socket():
    assert client_of(SimpleNamespace(client=None)) == "unix"


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer token", True),
        ("bearer  token ", True),
        ("Bearer tokens", False),
        ("Basic token", False),
        ("Bearer", False),
        ("token", False),
        ("", False),
        ("Bearer \u00fc", False),
    ],
)
def test_a_bearer_token_is_compared_as_a_whole(header, right):
    assert check_bearer(header, "token") is right


async def call(guard, authorization=None):
    headers = {} if authorization is None else {"authorization": authorization}
    await guard(SimpleNamespace(headers=headers))


@pytest.mark.anyio
async def test_without_a_token_data_routes_are_open_and_admin_routes_closed():
    await call(data_guard(""))
    with pytest.raises(Forbidden, match="POLICY_SERVER_ADMIN_TOKEN"):
        await call(admin_guard(""), "Bearer ")


@pytest.mark.anyio
@pytest.mark.parametrize("guard", [data_guard("token"), admin_guard("token")])
async def test_a_missing_token_and_a_wrong_one_are_distinguished(guard):
    await call(guard, "Bearer token")
    with pytest.raises(Unauthorized, match="no token"):
        await call(guard)
    with pytest.raises(Unauthorized, match="the token is wrong"):
        await call(guard, "Bearer other")
