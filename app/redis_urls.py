"""What is wrong with a URL, and with the options behind the `?` of Redis's, which its client says late, or never."""

from __future__ import annotations

import math
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit


def _is_number(least: float, whole: bool = False) -> Callable[[str], bool]:
    def is_one(text: str) -> bool:
        try:
            number = int(text) if whole else float(text)
            return math.isfinite(number) and number >= least
        except (ValueError, OverflowError):
            return False

    return is_one


def _is_text(text: str) -> bool:
    return bool(text)


_TRUTH = (lambda text: text.lower() in ("0", "f", "false", "n", "no", "1", "t", "true", "y", "yes")), "true or false"
_SECONDS = _is_number(0.001), "a number of seconds above 0"
_TEXT = _is_text, "text"
_OPTIONS: dict[str, tuple[Callable[[str], bool], str]] = {
    "client_name": _TEXT,
    "db": (_is_number(0, whole=True), "a number from 0"),
    "health_check_interval": (_is_number(0, whole=True), "a whole number of seconds from 0"),
    "max_connections": (_is_number(1, whole=True), "a number from 1"),
    "password": _TEXT,
    "protocol": (lambda text: text in ("2", "3"), "2 or 3"),
    "retry_on_timeout": _TRUTH,
    "socket_connect_timeout": _SECONDS,
    "socket_timeout": _SECONDS,
    "username": _TEXT,
}
_TCP_OPTIONS = {"socket_keepalive": _TRUTH}
_TLS_OPTIONS = {
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_cert_reqs": (lambda text: text in ("none", "optional", "required"), "none, optional or required"),
    "ssl_certfile": _TEXT,
    "ssl_check_hostname": _TRUTH,
    "ssl_ciphers": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _TEXT,
}


def is_url(text: str, schemes: tuple[str, ...]) -> bool:
    """Returns whether a text is a URL of one of these schemes, such as `http://`."""
    try:
        return text.startswith(schemes) and urlsplit(text).port != 0
    except ValueError:  # a port that is none
        return False


def wrong_option(url: str) -> str:
    """Returns what is wrong with an option of a Redis URL, "" where nothing is; no value is shown, it may be secret."""
    parts = urlsplit(url)
    known = (
        _OPTIONS | (_TCP_OPTIONS if parts.scheme != "unix" else {}) | (_TLS_OPTIONS if parts.scheme == "rediss" else {})
    )
    for name, values in parse_qs(parts.query).items():
        if name not in known:
            return f"has the option {name[:40]!r}, expected one of {', '.join(sorted(known))}"
        is_one, expected = known[name]
        if not is_one(values[0]):
            return f"has an option {name} that is not {expected}"
    return ""
