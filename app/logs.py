"""Log lines: one line each, time first, to standard error; and the lines that a start prints.

Writing is a thread's, since a pipe that nobody reads holds whoever writes to it, and that must be no answer.
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
# How long the end of a process may be held up by lines that nobody reads.
_FAREWELL_S = 1.0


class Drain:
    """Writes lines to a file descriptor, in order, from a thread of its own.

    What comes while more than `most_bytes` wait is dropped and counted; a line tells how many when there is room again.
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
        """Takes a line, without its end; never waits for whoever reads it."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._bytes + len(data) > self._most_bytes:
                self._dropped += 1
                return
            self._lines.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def flush(self, timeout_s: float = _FAREWELL_S) -> bool:
        """Whether everything was written, within that time."""
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
                    told = _dropped(self._dropped)
                    self._lines.append(told)
                    self._bytes += len(told)
                    self._dropped = 0
                self._writing = False
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever gave it to us has set it so
                select.select((), (self._descriptor,), ())
            except OSError:  # it is closed, or its disk is full
                return False
        return True


class DrainHandler(logging.Handler):
    """Hands each record to a drain as a line."""

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
    """Prints lines to standard output, and does not wait for long where nobody reads it."""
    sys.stdout.flush()
    drain = Drain(sys.stdout.fileno())
    for line in lines:
        drain.put(line)
    drain.flush()


class LineFormatter(logging.Formatter):
    """One line a message, whatever it was made of; the traceback of an error follows in lines of its own."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 — its name in `logging`
        """See `logging.Formatter`."""
        return super().formatMessage(record).translate(_ESCAPES)


# What ends a line somewhere, or tells a terminal to do something.
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if code != 9}
_ESCAPES |= {code: ascii(chr(code))[1:-1] for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _dropped(count: int) -> bytes:
    """The line that tells of lines that are missing, at the place where they are."""
    record = logging.makeLogRecord(
        {
            "name": "policy_server.log",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": f"{count} lines before this one were dropped: nobody had read the log for a while",
            "created": time.time(),
        }
    )
    return LineFormatter().format(record).encode() + b"\n"
