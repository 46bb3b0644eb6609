"""Who calls."""

from types import SimpleNamespace

import pytest

from app.api.access import client_of


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


def test_a_client_without_an_address_is_not_known():
    assert client_of(SimpleNamespace(client=None)) == ""
