"""What has come on a WebSocket: bytes → messages, a slice at a time."""

from __future__ import annotations

from collections import deque

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from app.wire.limits import SMALL_BYTES

# So much is parsed at once, of a long frame more. Frames without content take as long as others: 680 are in a slice.
_SLICE_BYTES, _LONG_SLICE_BYTES = 4 * 1024, 16 * 1024
_MOST_MESSAGES = 16
# So many frames that bring nothing may come within a second, or before the end of a message.
MOST_EMPTY = 1024
# So much of a message has to come within the time that a client has.
_STEP_BYTES = 16 * 1024
# Fragments are joined now and then: one may have no byte.
_MOST_FRAGMENTS = 1024
_DATA = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class ReceivedMessages:
    """Bytes that wait to be parsed, the message that comes, and those that wait for their answer.

    `ahead`: the bytes. `messages`: each with whether it is a text. `partial`: bytes of the message that comes, `since`:
    when enough of it has come last. `empty`: frames that brought nothing, of late.
    """

    def __init__(self, frames: ServerProtocol, now: float) -> None:
        self.ahead = b""
        self.messages: deque[tuple[bytes, bool]] = deque()
        self.partial = self.empty = 0
        self.since = self._empty_since = now
        self._frames = frames
        self._fragments: list[bytes] = []
        self._is_text = False
        self._queued = self._step = self._fragment_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.ahead or self.partial or self.messages)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.ahead) + self.partial + self._queued

    @property
    def takes_more(self) -> bool:
        """Whether bytes wait to be parsed and few messages to be answered, whose count and size that bounds."""
        return bool(self.ahead) and len(self.messages) < _MOST_MESSAGES and self._queued <= SMALL_BYTES

    def add(self, data: bytes) -> None:
        """Keeps what has come."""
        self.ahead = self.ahead + data if self.ahead else data

    def take(self) -> tuple[bytes, bool]:
        """Returns the next message, and whether it is a text."""
        message, is_text = self.messages.popleft()
        self._queued -= len(message)
        return message, is_text

    def drop(self) -> None:
        """Lets go of everything."""
        self.ahead, self._fragments = b"", []
        self.messages.clear()
        self._frames.reader.buffer.clear()  # the parser refers to itself: it lives until the garbage collector runs

    def parse(self, now: float) -> bytes:
        """Parses a slice of what has come; returns what is to be sent, such as the answer to a ping."""
        frames = self._frames
        size = _SLICE_BYTES if len(frames.reader.buffer) <= SMALL_BYTES else _LONG_SLICE_BYTES
        piece, self.ahead = self.ahead[:size], self.ahead[size:]
        self._step += len(piece)
        if self._step >= _STEP_BYTES or not self.partial:
            self.since, self._step = now, 0
        if now > self._empty_since + 1:
            self.empty, self._empty_since = 0, now
        frames.receive_data(piece)
        for frame in frames.events_received():
            if isinstance(frame, Frame):
                self._take(frame, now)
        self.partial = len(frames.reader.buffer) + self._fragment_bytes
        return b"".join(frames.data_to_send())

    def _take(self, frame: Frame, now: float) -> None:
        if frame.opcode not in _DATA:
            self.empty += 1
            return
        data = bytes(frame.data)
        self.empty += not data
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if not frame.fin or self._fragments:
            self._fragments.append(data)
            self._fragment_bytes += len(data) + 1
            if len(self._fragments) > _MOST_FRAGMENTS:
                self._fragments = [b"".join(self._fragments)]
        if frame.fin:
            message = b"".join(self._fragments) if self._fragments else data
            self._fragments, self._fragment_bytes = [], 0
            self.since, self._step, self.empty = now, 0, 0
            self.messages.append((message, self._is_text))
            self._queued += len(message)
