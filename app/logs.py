"""Log lines: one line each, as text with the time first, or as a JSON object; and the lines that a start prints.

A thread writes, since a pipe that is not read blocks its writer, and no answer may wait for that.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any

from app.errors import readable

# Of lines that wait to be written.
_MOST_BYTES = 2**20
# How long the end of a process may wait for lines that are not read.
_FAREWELL_S = 1.0


class Drain:
    """Writes lines to a file descriptor, in order, from a thread of its own.

    What comes while more than `most_bytes` wait is dropped and counted; a line says how many when there is room again.
    """

    def __init__(
        self, descriptor: int, most_bytes: int = _MOST_BYTES, formatter: logging.Formatter | None = None
    ) -> None:
        self._descriptor = descriptor
        self._formatter = formatter or LineFormatter()
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
                    notice = self._notice(self._dropped)
                    self._lines.append(notice)
                    self._bytes += len(notice)
                    self._dropped = 0
                self._writing = False
                self._changed.notify_all()

    def _notice(self, count: int) -> bytes:
        """Makes the line that stands where lines are missing."""
        text = f"{count} lines before this one were dropped: the log was not read for a while"
        return self._formatter.format(_record(logging.WARNING, "policy_server.log", text)).encode() + b"\n"

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


def configure(level: str, form: str = "text", **process: str | int) -> None:
    """Sets the level of our loggers and of uvicorn's, and the form of the lines.

    `form`: "text", or "json": then whatever Python prints of errors and warnings is a line of the log too. `process`:
    fields of each JSON object that say which process wrote it.
    """
    root = logging.getLogger()
    if not root.handlers:
        formatter = JsonFormatter(process) if form == "json" else LineFormatter()
        descriptor = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        handler = DrainHandler(Drain(descriptor, formatter=formatter))
        handler.setFormatter(formatter)
        root.addHandler(handler)
        if form == "json":
            _log_what_python_prints()
        root.setLevel(logging.WARNING)
    for each in root.handlers:
        each.addFilter(_renamed)
    for name in ("policy_server", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    calm_absl()


def calm_absl() -> None:
    """Leaves out that TensorFlow renames each flattened input (`0/reward`) for its keyword arguments."""
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
    """Prints lines to standard output, in the form of the log's, and does not wait for long where they are not read."""
    sys.stdout.flush()
    formatter = json_formatter()
    drain = Drain(sys.stdout.fileno(), formatter=formatter)
    for line in lines:
        if formatter is not None:
            line = formatter.format(_record(logging.INFO, "policy_server.start", line.strip()))
        drain.put(line)
    drain.flush()


def json_formatter() -> JsonFormatter | None:
    """Returns what formats the log where its lines are JSON, else None."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    return next((formatter for formatter in formatters if isinstance(formatter, JsonFormatter)), None)


def about(policy: str, version: str = "") -> dict[str, str]:
    """Returns the fields of a record that is about a policy, and perhaps about a version of it: its `extra`."""
    return {"policy": policy, "version": version} if version else {"policy": policy}


def _log_what_python_prints() -> None:
    """Has warnings, and errors that nobody has caught, logged: Python would print them over several lines."""
    log = logging.getLogger("policy_server.log")
    logging.captureWarnings(True)

    def hook(kind: Any, error: Any, trace: Any) -> None:
        log.critical("an error that nobody has caught ends this process", exc_info=(kind, error, trace))

    def in_thread(found: Any) -> None:
        log.critical("an error that nobody has caught ends a thread", exc_info=found[:3])

    def unraisable(found: Any) -> None:
        log.error("an error that cannot be raised: %s", found.err_msg or "", exc_info=found[:3])

    sys.excepthook, threading.excepthook, sys.unraisablehook = hook, in_thread, unraisable


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


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line. `process`: fields that every object has.

    `time` is in RFC 3339, UTC; `policy` and `version` are there where the record is about one, `error` where there is
    one: its type, its message, and its stack as Python prints it.
    """

    def __init__(self, process: dict[str, str | int]) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": readable(record.getMessage()),
            **self._process,
        }
        line |= {key: readable(str(getattr(record, key))) for key in ("policy", "version") if hasattr(record, key)}
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            stack = "".join(traceback.format_exception(kind, error, trace))
            line["error"] = {"type": kind.__qualname__, "message": readable(str(error)), "stack": readable(stack)}
        return json.dumps(line)  # ASCII: no character of it can end a line, or control a terminal


def _record(level: int, logger: str, text: str) -> logging.LogRecord:
    names = {"name": logger, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord({**names, "msg": text, "created": time.time()})
