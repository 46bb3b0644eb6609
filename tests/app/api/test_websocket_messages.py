"""Bytes of a WebSocket become messages slice by slice, and nothing of them stays once they are dropped."""

import pytest
from websockets.protocol import State
from websockets.server import ServerProtocol

from app.api.websocket_messages import MOST_EMPTY, ReceivedMessages
from tests.app.api.test_websocket import CONT, PING, TEXT, frame

SLICE = 4096


@pytest.fixture
def received() -> ReceivedMessages:
    return ReceivedMessages(ServerProtocol(max_size=10_000_000, state=State.OPEN), 0.0)


def parse_all(received: ReceivedMessages, now: float = 0.0) -> list[bytes]:
    replies = []
    while received.takes_more:
        replies.append(received.parse(now))
    return replies


def test_messages_come_in_their_order_with_what_they_are(received: ReceivedMessages) -> None:
    received.add(frame(b"one") + frame(b"t", TEXT, last=False))
    received.add(frame(b"wo", CONT) + frame(b"here", PING) + frame(b"thr", last=False))
    (reply,) = parse_all(received)
    assert reply.endswith(b"here")
    assert received.partial
    received.add(frame(b"ee", CONT))
    parse_all(received)
    assert [received.take() for _ in range(3)] == [(b"one", False), (b"two", True), (b"three", False)]
    assert not received


def test_a_slice_at_a_time_is_parsed_and_few_messages_wait(received: ReceivedMessages) -> None:
    received.add(frame(b"x" * 94) * 200)  # of 100 bytes each
    received.parse(0.0)
    assert (len(received.messages), len(received.ahead)) == (SLICE // 100, 20_000 - SLICE)
    assert not received.takes_more
    while received.messages:
        received.take()
    assert received.takes_more


def test_a_long_frame_is_parsed_in_longer_slices(received: ReceivedMessages) -> None:
    received.add(frame(b"x" * 1_000_000))
    assert len(parse_all(received)) < 1_000_000 / SLICE / 2
    assert received.take() == (b"x" * 1_000_000, False)


def test_frames_that_bring_nothing_are_counted_for_a_second(received: ReceivedMessages) -> None:
    received.add(frame(b"", PING) * MOST_EMPTY)
    parse_all(received, now=0.5)
    assert received.empty == MOST_EMPTY
    received.add(frame(b"", PING))
    parse_all(received, now=2.0)
    assert received.empty == 1


def test_nothing_of_a_message_stays_once_it_is_dropped(received: ReceivedMessages) -> None:
    received.add(frame(b"a") + frame(b"b", last=False) + frame(b"x" * 50_000, CONT)[:-1])
    parse_all(received)
    assert len(received._frames.reader.buffer) > 40_000
    received.drop()
    assert not received._frames.reader.buffer
    assert not received.messages
    assert not received._fragments
