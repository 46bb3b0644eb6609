"""Somebody who asks small requests all the while, in a process of its own: `… neighbour PORT`.

A line on standard input begins a count, the next one ends it; then one line is written: how many answers there were,
the longest latency in ms, and how many were no good ones.
"""

from __future__ import annotations

import select
import socket
import sys
import time

_EVERY_S = 0.002
_TIMEOUT_S = 60
BODY = b'{"observation": [0.1, 0.2, 0.3, 0.4]}'
REQUEST = b"POST /v1/policies/small/action HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


def main() -> None:
    """Asks until standard input ends."""
    port = int(sys.argv[1])
    connection = _connected(port)
    counting, count, worst, bad = False, 0, 0.0, 0
    while True:
        if select.select([sys.stdin], [], [], _EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            if counting:
                sys.stdout.write(f"{count} {1000 * worst:.2f} {bad}\n")
                sys.stdout.flush()
            counting, count, worst, bad = not counting, 0, 0.0, 0
        began = time.perf_counter()
        try:
            connection.sendall(REQUEST)
            answer = connection.recv(1 << 16)
        except OSError:
            answer = b""
        worst = max(worst, time.perf_counter() - began)
        count += 1
        if not answer.startswith(b"HTTP/1.1 200"):
            bad += 1
            connection.close()
            connection = _connected(port)


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    main()
