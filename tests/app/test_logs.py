"""A log that nobody reads, or can write to, holds nobody up."""

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import orjson
import pytest

from app.logs import Drain, JsonFormatter, LineFormatter, about
from tests.support.server import ROOT


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def read_until(descriptor: int, end: bytes) -> bytes:
    found = b""
    while end not in found:
        found += os.read(descriptor, 2**20)
    return found


def read_to_the_end(drain: Drain, descriptor: int, last: str) -> list[str]:
    """Reads what waits in a drain, and a last line that is put behind it."""
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(read_until(descriptor, f"{last}\n".encode())))
    reading.start()
    assert drain.flush(10)
    drain.put(last)
    reading.join(10)
    return found[0].decode().splitlines()


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    drain = Drain(pipe[1])
    for number in range(1000):
        drain.put(f"line {number} \ud800")
    lines = read_until(pipe[0], b"line 999 \\ud800\n").decode().splitlines()
    assert lines == [f"line {number} \\ud800" for number in range(1000)]
    assert drain.flush()


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_are_not_read_are_dropped_and_counted_at_their_place(pipe: tuple[int, int], blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    drain = Drain(pipe[1], most_bytes=100_000)
    began = time.monotonic()
    for number in range(5000):
        drain.put(f"line {number:4} {'x' * 90}")
    assert time.monotonic() - began < 5
    assert not drain.flush(0.01)
    *lines, end = read_to_the_end(drain, pipe[0], "the end")
    assert end == "the end"
    numbers, dropped = [], 0
    for line in lines:
        notice = re.search(r" WARNING policy_server\.log: (\d+) lines before this one were dropped", line)
        if notice:
            dropped += int(notice[1])
        else:
            assert len(line) == 100
            numbers.append(int(line.split()[1]))
    assert numbers == sorted(numbers)
    assert numbers[:500] == list(range(500))
    assert len(numbers) + dropped == 5000
    assert dropped > 1000


def test_a_log_that_is_closed_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    drain = Drain(ours.fileno())
    theirs.close()
    for _ in range(10):
        drain.put("a line")
    assert drain.flush()
    ours.close()


def test_a_message_is_one_line_whatever_it_is_made_of() -> None:
    name = "a\n2026 INFO x\r\x1b[31m\u2028b\u2029c\x85d\x9b1m\u202ee\ttab é"
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "from %s", "args": (name,)})
    line = LineFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.endswith(r"from a\n2026 INFO x\r\x1b[31m\u2028b\u2029c\x85d\x9b1m\u202ee" "\ttab é")


def test_a_process_ends_though_nobody_reads_its_log() -> None:
    code = "import logging; from app import logs; logs.configure('info')\nfor _ in range(9999): logging.error('x' * 99)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 0


def test_a_process_that_ends_has_written_its_last_line() -> None:
    code = "import logging; from app import logs; logs.configure('info'); logging.error('the last')"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30, check=True)
    assert done.stderr.endswith(b" ERROR root: the last\n")


@pytest.mark.parametrize(
    ("logger", "shown"),
    [
        ("uvicorn.error", "policy_server.http"),
        ("uvicorn", "policy_server.http"),
        ("policy_server", "policy_server"),
        ("asyncio", "asyncio"),
    ],
)
def test_lines_are_those_of_the_server_and_not_of_a_logger_called_error(logger: str, shown: str) -> None:
    program = (
        f"import logging\nfrom app import logs\nlogs.configure('info')\nlogging.getLogger({logger!r}).warning('x')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.rstrip().endswith(f" WARNING {shown}: x")


# Lines as JSON.


def as_json(**fields: object) -> dict:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "from %s", "args": ("a",), **fields})
    line = JsonFormatter({"process": "worker", "worker": 2}).format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    return json.loads(line)


def test_a_record_is_one_object_whatever_it_is_made_of() -> None:
    name = 'a\n2026 INFO x\r\x1b[31m\u2028b\x85\u202e"e" é \ud800'
    assert as_json(args=(name,), created=0.25) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "n",
        "message": f"from {name[:-1]}\\ud800",  # which strict readers refuse as it is
        "process": "worker",
        "worker": 2,
    }


def test_names_of_files_that_are_no_utf8_are_text_that_any_reader_of_json_takes() -> None:
    try:
        raise OSError("b\udcfe")
    except OSError:
        found = sys.exc_info()
    record = logging.LogRecord("n", logging.ERROR, "", 1, "a\udcff", (), found)
    record.policy, record.version = "p", "v\udcfd"
    line = JsonFormatter({}).format(record)
    said = orjson.loads(line)
    assert (said["message"], said["version"], said["error"]["message"]) == ("a\\udcff", "v\\udcfd", "b\\udcfe")


def test_a_record_about_a_policy_has_its_name_and_perhaps_that_of_a_version() -> None:
    assert as_json(**about("p"))["policy"] == "p"
    assert "version" not in as_json(**about("p"))
    assert as_json(**about("p", "700"))["version"] == "700"


def test_an_error_has_its_type_its_message_and_its_stack() -> None:
    try:
        raise ValueError("two\nlines") from KeyError("before")
    except ValueError:
        error = as_json(exc_info=sys.exc_info())["error"]
    assert (error["type"], error["message"]) == ("ValueError", "two\nlines")
    assert "KeyError: 'before'" in error["stack"]
    assert f'File "{__file__}"' in error["stack"]
    assert "error" not in as_json(exc_info=(None, None, None))


def test_what_python_prints_of_warnings_and_errors_is_lines_too() -> None:
    code = """
import threading, warnings
from app import logs
logs.configure("info", "json", process="control")
warnings.warn("old\\nway")
class Bad:
    def __del__(self): raise OSError("at the end")
del (bad := Bad())
def fail(): raise KeyError("thread")
thread = threading.Thread(target=fail); thread.start(); thread.join()
logs.say("Listening", "  p: 1")
raise ValueError("nobody")
""".replace("del (bad := Bad())", "bad = Bad(); del bad")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line.get("error", {}).get("type")) for line in lines] == [
        ("warning", None), ("error", "OSError"), ("critical", "KeyError"), ("critical", "ValueError"),
    ]  # fmt: skip
    assert "old\nway" in lines[0]["message"]
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["Listening", "p: 1"]


def test_the_line_that_stands_for_missing_ones_has_the_form_of_the_others(pipe: tuple[int, int]) -> None:
    drain = Drain(pipe[1], most_bytes=200_000, formatter=JsonFormatter({"process": "worker"}))
    for number in range(5000):
        drain.put(json.dumps({"message": f"{number} {'x' * 90}"}))
    *lines, _ = read_to_the_end(drain, pipe[0], '{"message": "the end"}')
    messages = [json.loads(line)["message"] for line in lines]
    assert any("lines before this one were dropped" in message for message in messages)
