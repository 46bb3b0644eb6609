"""Frames of WebSockets (RFC 6455, 5.2): those of a server, and a client's that comes whole and alone."""

from __future__ import annotations

from websockets.frames import Opcode, apply_mask  # type: ignore[attr-defined]  # in C, where that is there

_WHOLE_BINARY, _MASKED = 0x82, 0x80


def framed(body: bytes, opcode: Opcode) -> bytes:
    """Returns the frame of a whole message from a server, which masks nothing."""
    size = len(body)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + body


def whole_message(data: bytes, most: int) -> bytes | None:
    """Returns the message of a frame that came whole and alone, as nearly all do; None of any other bytes."""
    got = len(data)
    if got < 6 or data[0] != _WHOLE_BINARY or data[1] < _MASKED:
        return None
    size, start = data[1] - _MASKED, 2
    if size == 126:
        size, start = data[2] << 8 | data[3], 4
        if size < 126:
            return None
    elif size == 127:  # a length of eight bytes: longer than what is read here
        return None
    if got != start + 4 + size or size > min(most, 0xFFFF):
        return None
    return apply_mask(data[start + 4 :], data[start : start + 4])
