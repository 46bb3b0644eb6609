"""A server's frames are those of RFC 6455, and a client's is read by itself only where it came whole and alone."""

import pytest
from websockets.frames import Frame, Opcode

from app.api.websocket_frames import framed, whole_message

MOST = 2**20
SIZES = [0, 1, 119, 125, 126, 127, 255, 256, 0xFFFF]


def of_client(body: bytes, opcode: Opcode = Opcode.BINARY, *, last: bool = True, masked: bool = True) -> bytes:
    return Frame(opcode, body, fin=last).serialize(mask=masked)


def body_of(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


@pytest.mark.parametrize("opcode", [Opcode.BINARY, Opcode.TEXT])
@pytest.mark.parametrize("size", [*SIZES, 0x10000])
def test_the_frames_of_a_server_are_those_of_the_library(size: int, opcode: Opcode) -> None:
    assert framed(body_of(size), opcode) == Frame(opcode, body_of(size)).serialize(mask=False)


@pytest.mark.parametrize("size", SIZES)
def test_a_message_that_came_whole_is_read_without_its_mask(size: int) -> None:
    assert whole_message(of_client(body_of(size)), MOST) == body_of(size)


@pytest.mark.parametrize(
    "data",
    [
        of_client(b"text", Opcode.TEXT),
        of_client(b"part", last=False),
        of_client(b"rest", Opcode.CONT),
        of_client(b"here?", Opcode.PING),
        of_client(b"", Opcode.CLOSE),
        of_client(b"no mask", masked=False),
        bytes((0xC2,)) + of_client(b"a reserved bit")[1:],
        of_client(b"one") + of_client(b"two"),
        of_client(b"one") + b"\x82",
        of_client(body_of(0x10000)),
    ],
    ids=["text", "first", "last", "ping", "close", "unmasked", "reserved", "two", "more", "large"],
)
def test_any_other_frame_is_left_to_the_library(data: bytes) -> None:
    assert whole_message(data, MOST) is None


@pytest.mark.parametrize("size", [0, 5, 125, 126, 300])
def test_a_frame_that_was_cut_anywhere_is_left_to_the_library(size: int) -> None:
    data = of_client(body_of(size))
    assert [cut for cut in range(len(data)) if whole_message(data[:cut], MOST) is not None] == []


def test_a_large_frame_that_was_cut_anywhere_is_left_to_the_library() -> None:
    data = of_client(body_of(0x10000))
    assert [cut for cut in range(300) if whole_message(data[:cut], MOST) is not None] == []


def test_a_length_in_more_bytes_than_it_needs_is_left_to_the_library() -> None:
    long_length = bytes((0x82, 0x80 | 126)) + (4).to_bytes(2, "big") + bytes(4) + b"four"
    assert whole_message(long_length, MOST) is None


def test_a_message_may_be_as_long_as_the_limit_and_no_longer() -> None:
    data = of_client(body_of(1000))
    assert whole_message(data, 1000) == body_of(1000)
    assert whole_message(data, 999) is None
