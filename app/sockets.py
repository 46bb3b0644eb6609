"""What a stop needs of sockets: no new connections, those that wait to be accepted, and the bytes that are unread."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import termios

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# Classic BPF over the TCP header (struct sock_filter: code, jump if true, jump if false, operand): drops what has SYN
# and not ACK, the first packet of a connection. The last one of a handshake under way passes.
_NO_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of the flags
        (0x54, 0, 0, 0x12),  # and it with SYN | ACK
        (0x15, 0, 1, 0x02),  # only SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)


def admit_nobody(listener: socket.socket) -> None:
    """Has the system ignore new connections: a client that tries again later finds that nothing listens.

    A unix socket loses its name: nobody finds it any more.

    A connection that is made between the last one accepted and the end of listening would be reset with its request.
    Where the system has no such filter, that can happen.
    """
    code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    program = struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(code))
    with contextlib.suppress(OSError):
        if listener.family == socket.AF_UNIX:
            os.unlink(listener.getsockname())
            return
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def address_of(listener: socket.socket) -> str:
    """Returns the URL at which other machines, or this one, reach what listens there."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accepts all connections that wait; as many as there are descriptors for."""
    accepted = []
    listener.setblocking(False)
    while True:
        try:
            accepted.append(listener.accept()[0])
        except ConnectionAbortedError:
            continue
        except OSError:
            return accepted


def unread_bytes(transport: asyncio.BaseTransport) -> int:
    """Returns how many bytes have arrived on a connection and are not read."""
    end = transport.get_extra_info("socket")
    if end is None or transport.is_closing():
        return 0
    count = array.array("i", [0])
    fcntl.ioctl(end.fileno(), termios.FIONREAD, count)
    return count[0]


def give_up_unanswered(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Has the system close a connection whose other side has not confirmed what was sent for so long.

    A machine that has vanished says nothing; by itself the system tries for a quarter of an hour.
    """
    end = transport.get_extra_info("socket")
    if end is not None and end.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
