"""Log lines: one line each, time first, to standard error; and the lines that a start prints.

A thread writes, since a pipe that is not read blocks its writer, and no answer may wait for that.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections import deque

# Of lines that wait to be written.
_MOST_BYTES = 2**20
# How long the end of a process may wait for lines that are not read.
_FAREWELL_S = 1.0


class Drain:
    """Writes lines to a file descriptor, in order, from a thread of its own.

    What comes while more than `most_bytes` wait is dropped and counted; a line says how many when there is room again.
    """

    def __init__(self, descriptor: int, most_bytes: int = _MOST_BYTES) -> None:
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Takes a line, without its end; never waits for a reader."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._bytes + len(data) > self._most_bytes:
                self._dropped += 1
                return
            self._lines.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def flush(self, timeout_s: float = _FAREWELL_S) -> bool:
        """Returns whether everything was written within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
                self._writing = True
            written = self._write(line)
            with self._changed:
                self._bytes -= len(line)
                self._dropped += not written
                if written and self._dropped and self._bytes < self._most_bytes // 2:
                    notice = _dropped(self._dropped)
                    self._lines.append(notice)
                    self._bytes += len(notice)
                    self._dropped = 0
                self._writing = False
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # the process that opened it has set it so
                select.select((), (self._descriptor,), ())
            except OSError:  # it is closed, or its disk is full
                return False
        return True


class DrainHandler(logging.Handler):
    """Passes each record to a drain as a line."""

    def __init__(self, drain: Drain) -> None:
        super().__init__()
        self._drain = drain

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._drain.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Waits a little: `logging` asks for it when the process ends."""
        self._drain.flush()


# Of the library that speaks HTTP: "uvicorn.error", as it calls what is no access, reads like a fault.
_HTTP = "policy_server.http"


def configure(level: str) -> None:
    """Sets the level of our loggers and of uvicorn's."""
    root = logging.getLogger()
    if not root.handlers:
        handler = DrainHandler(Drain(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2))
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
        root.setLevel(logging.WARNING)
    for each in root.handlers:
        each.addFilter(_renamed)
    for name in ("policy_server", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # It warns that TensorFlow renames each flattened input (`0/reward`) for its keyword arguments.
    logging.getLogger("absl").setLevel(logging.ERROR)


def flush() -> None:
    """Waits a little until what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _renamed(record: logging.LogRecord) -> bool:
    if record.name.startswith("uvicorn"):
        record.name = _HTTP
    return True


def say(*lines: str) -> None:
    """Prints lines to standard output, and does not wait for long where they are not read."""
    sys.stdout.flush()
    drain = Drain(sys.stdout.fileno())
    for line in lines:
        drain.put(line)
    drain.flush()


class LineFormatter(logging.Formatter):
    """Formats a message as one line, whatever is in it; the traceback of an error follows in lines of its own."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 — its name in `logging`
        """See `logging.Formatter`."""
        return super().formatMessage(record).translate(_ESCAPES)


# Characters that end a line somewhere, or control a terminal.
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if code != 9}
_ESCAPES |= {code: ascii(chr(code))[1:-1] for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _dropped(count: int) -> bytes:
    """Makes the line that stands where lines are missing."""
    record = logging.makeLogRecord(
        {
            "name": "policy_server.log",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": f"{count} lines before this one were dropped: the log was not read for a while",
            "created": time.time(),
        }
    )
    return LineFormatter().format(record).encode() + b"\n"
