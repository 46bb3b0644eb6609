"""An option of a Redis URL is refused by name where no client would take it; its value is never shown."""

import pytest

from app.redis_urls import wrong_option

BY_SCHEME = {
    "redis": {"socket_keepalive"},
    "rediss": {"socket_keepalive", "ssl_ca_certs", "ssl_cert_reqs", "ssl_keyfile"},
    "unix": set(),
}


@pytest.mark.parametrize(("scheme", "known"), BY_SCHEME.items())
@pytest.mark.parametrize(("name", "value"), [("socket_keepalive", "yes"), ("ssl_cert_reqs", "none"), ("db", "1")])
def test_which_options_there_are_goes_by_how_it_is_connected(
    scheme: str, known: set[str], name: str, value: str
) -> None:
    said = wrong_option(f"{scheme}://h/0?{name}={value}")
    if name in {"db", *known}:
        assert said == ""
    else:
        names = said.partition(", expected one of ")[2].split(", ")
        assert said.startswith(f"has the option {name!r}, expected one of ")
        assert names == sorted(names)
        assert {"db", "username", *known} <= {*names}
        assert name not in names


@pytest.mark.parametrize(
    ("option", "least", "below"),
    [
        ("db", "0", "-1"),
        ("db", "1", "9" * 400),
        ("max_connections", "1", "0"),
        ("health_check_interval", "0", "-1"),
        ("socket_timeout", "0.001", "0.0009"),
        ("socket_connect_timeout", "1e-3", "0"),
    ],
)
def test_a_number_may_be_the_least_one_and_no_less(option: str, least: str, below: str) -> None:
    assert wrong_option(f"redis://h?{option}={least}") == ""
    assert wrong_option(f"redis://h?{option}={below}").startswith(f"has an option {option} that is not a ")


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "1s"])
def test_a_time_that_never_ends_is_none(value: str) -> None:
    wrong = "has an option socket_timeout that is not a number of seconds above 0"
    assert wrong_option(f"redis://h?socket_timeout={value}") == wrong


@pytest.mark.parametrize("value", ["0", "F", "false", "No", "1", "T", "TRUE", "y", "%79es"])
def test_a_truth_is_written_as_redis_writes_it(value: str) -> None:
    assert wrong_option(f"redis://h?retry_on_timeout={value}") == ""


def test_a_long_name_is_shown_at_its_beginning() -> None:
    assert wrong_option(f"redis://h?{'x' * 500}=1").startswith(f"has the option '{'x' * 40}', expected one of ")


def test_of_several_options_the_first_that_is_wrong_is_named() -> None:
    assert wrong_option("redis://h?db=1&protocol=4&socket_timeout=no") == "has an option protocol that is not 2 or 3"


def test_an_option_without_a_value_is_none_as_it_is_for_redis() -> None:
    assert wrong_option("redis://h?db=&unknown") == ""
