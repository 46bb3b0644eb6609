"""Ports that stay free for a server that is killed and started again, and for proxies that name them beforehand."""

import os
import random
import socket

# Below what Linux gives to outgoing connections (32768 and up), one of which could take the port meanwhile.
# Each process of the tests has a part for itself: a server may take its port seconds later.
_LOWEST, _PART, _PARTS = 20_000, 2_000, 6
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _PARTS
_left = list(range(_LOWEST + _number * _PART, _LOWEST + (_number + 1) * _PART))
random.SystemRandom().shuffle(_left)


def port_below_outgoing() -> int:
    """A port of 127.0.0.1 on which nothing listens, another one each time."""
    while True:
        port = _left.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
