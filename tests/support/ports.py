"""Ports that stay free for a server that is killed and started again, and for proxies that name them beforehand."""

import random
import socket

# Below what Linux gives to outgoing connections (32768 and up), one of which could take the port meanwhile.
_LOWEST, _HIGHEST = 20_000, 32_000


def port_below_outgoing() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
