"""What keeping experience costs, and how fast a trainer reads it.

Two servers by turns on one machine, which should have nothing else to do: one keeps experience and the other does not.
Steps of sessions, as many as come and half of that, with their p99; then one trainer that reads while steps go on at
half of the most, and how soon after a step's answer a reader that waits has the row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from app.wire import msgpack_body
from bench import BenchError
from bench.harness import command
from bench.harness.command import progress
from bench.harness.figures import Found, report
from bench.harness.load import Answers, Generator, compiled, request_bytes
from bench.harness.server import Server, serving
from bench.serving import usage
from bench.serving.exports import SMALL, Exports

ROOT = f"/v1/policies/{SMALL}"
STEP = json.dumps({"observation": [0.1, -0.2, 0.3, -0.4], "reward": 1.0, "step_type": 1}).encode()
# Far more sessions than connections, and few of those also in a stall: a request on a connection that waits to be
# accepted may be sent again by TCP, and be late for long enough that its session's next step is due.
SESSIONS, CONNECTIONS, MOST_CONNECTIONS = 2048, 16, 64
MOST_WAIT_MS = 20_000
WORKER_MB = 150
QUICK = {"rounds": 1, "seconds": 0.3, "probes": 3}


def main() -> int:
    """Measures and prints. 0: well; 1: nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.experience", lambda: report("bench-experience", options, _measured))


def _measured(options: argparse.Namespace, folder: Path) -> Iterator[Found]:
    exports = Exports(options.exports or folder, progress)
    exports.make([SMALL])
    policies = exports.policies(SMALL)
    kept = ["--experience-dir", str(folder / "experience")]
    with contextlib.ExitStack() as stack:
        plain, recording = (
            stack.enter_context(serving(policies, folder / name, ["--no-watch", *more]))
            for name, more in (("plain", []), ("recording", kept))
        )
        generator = _steps(folder, (plain, recording))
        progress("steps of sessions, with and without")
        half = yield from _steps_beside(plain, recording, generator, options)
        progress("one trainer, while steps go on at half of the most")
        yield from _trainer(recording, generator, half, options)
        progress("from a step's answer to the answer of a reader that waits")
        yield from _wakes(recording, options)
        family = usage.family(recording.pid)
        for name, module, most in (
            ("a worker", "app.worker", WORKER_MB),
            ("the recorder", "app.experience.recorder", 0),
        ):
            size = usage.resident_mb(usage.running_module(family, module))
            yield Found(
                f"memory of {name}, MB", size, f"at most {most}" if most else "", size <= most if most else None
            )


def _steps(folder: Path, servers: tuple[Server, ...]) -> Generator:
    """Begins the sessions on each server; the generator steps them by turns."""
    files = []
    for number in range(SESSIONS):
        for server in servers:
            server.call("POST", f"{ROOT}/sessions", b'{"id": "bench-%d", "observation": [0, 0, 0, 0]}' % number)
        file = folder / f"step-{number}"
        file.write_bytes(request_bytes(f"{ROOT}/sessions/bench-{number}/action", STEP))
        files.append(file)
    return Generator(compiled(folder), tuple(files))


def _checked(answers: Answers) -> Answers:
    if answers.failures:
        raise BenchError(f"{answers.failures} steps failed: {answers.statuses}")
    return answers


def _steps_beside(
    plain: Server, recording: Server, generator: Generator, options: argparse.Namespace
) -> Iterator[Found]:
    """Yields figures; returns half of the most steps a second of the one that records."""
    rates: list[list[float]] = [[], []]
    late: list[list[float]] = [[], []]
    late_at_half: list[list[float]] = [[], []]
    cpu = rows = 0.0
    for number in range(options.rounds):
        turns = [(plain, 0), (recording, 1)] if number % 2 == 0 else [(recording, 1), (plain, 0)]
        for server, which in turns:
            before = _recorder_s(server)
            answers = _checked(generator.run(server.port, options.seconds, CONNECTIONS))
            rates[which].append(answers.rate)
            late[which].append(answers.p99_ms)
            if which:
                _caught_up(server)
                cpu, rows = cpu + _recorder_s(server) - before, rows + answers.requests
        rate = min(rates[0][-1], rates[1][-1]) / 2
        for server, which in turns:
            answers = _checked(generator.run(server.port, options.seconds, CONNECTIONS, rate, MOST_CONNECTIONS))
            late_at_half[which].append(answers.p99_ms)
            _caught_up(server)
    for what, samples in (("without", rates[0]), ("with", rates[1])):
        yield Found(f"steps a second, {what} recording", statistics.median(samples))
    ratio = _ratio(rates[1], rates[0])
    yield Found("… the ratio", ratio, "at least 0.9", ratio >= 0.9)
    for what, samples in (("without", late[0]), ("with", late[1])):
        yield Found(f"… their p99, {what}, ms", statistics.median(samples))
    ratio = _ratio(late[1], late[0])
    yield Found("… the ratio", ratio, "at most 1.2", ratio <= 1.2)
    for what, samples in (("without", late_at_half[0]), ("with", late_at_half[1])):
        yield Found(f"p99 at half of that, {what}, ms", statistics.median(samples))
    yield Found("… the ratio", _ratio(late_at_half[1], late_at_half[0]))
    yield Found("the recorder's time on a core for 1,000 steps, ms", cpu / rows * 1e6)
    return statistics.median(rates[1]) / 2


def _recorder_s(server: Server) -> float:
    return usage.cpu_s(usage.running_module(usage.family(server.pid), "app.experience.recorder"))


def _caught_up(server: Server) -> None:
    """Returns when the recorder has nothing to do any more: what it takes is not to fall into another's turn."""
    used = _recorder_s(server)
    while True:
        time.sleep(0.3)
        before, used = used, _recorder_s(server)
        if used - before < 0.03:
            return


def _trainer(server: Server, generator: Generator, rate: float, options: argparse.Namespace) -> Iterator[Found]:
    seconds = max(1.0, options.seconds * 2)
    running = generator.running(server.port, seconds, CONNECTIONS, rate, MOST_CONNECTIONS)
    with running as load, _Reader(server) as reader:
        began, rows, pages = time.perf_counter(), 0, 0
        while load.poll() is None and time.perf_counter() - began < seconds:
            page = reader.read()
            rows, pages = rows + page["rows"], pages + 1
            if not page["rows"]:
                reader.cursor = ""  # from the oldest row again
        spent = time.perf_counter() - began
    yield Found("steps a second meanwhile", rate)
    yield Found("rows a second that one trainer reads", rows / spent, "at least 20,000", rows / spent >= 20_000)
    yield Found("… rows in an answer", rows / max(1, pages))


def _wakes(server: Server, options: argparse.Namespace) -> Iterator[Found]:
    with _Reader(server, "end") as reader, httpx.Client(trust_env=False, base_url=server.url) as stepping:
        path = f"{ROOT}/sessions/bench-0/action"
        stepping.post(path, content=STEP).raise_for_status()
        time.sleep(0.5)
        while reader.read()["rows"]:
            pass
        spent_ms = []
        for number in range(options.probes):
            time.sleep(0.05 + number % 10 * 0.013)
            answered = 0.0

            def step() -> None:
                nonlocal answered
                time.sleep(0.1)  # the reader waits by then
                stepping.post(path, content=STEP).raise_for_status()
                answered = time.perf_counter()

            thread = threading.Thread(target=step)
            thread.start()
            page = reader.read(MOST_WAIT_MS)
            received = time.perf_counter()
            thread.join()
            if page["rows"] != 1:
                raise BenchError(f"{page['rows']} rows came of one step")
            spent_ms.append((received - answered) * 1000)
    yield Found("from a step's answer to the waiting reader's, p50, ms", statistics.median(spent_ms))
    yield Found("… most, ms", max(spent_ms), "at most 50", max(spent_ms) <= 50)


class _Reader:
    """A trainer: msgpack, one connection, one page after the other."""

    def __init__(self, server: Server, cursor: str = "") -> None:
        headers = {"Accept": "application/msgpack"}
        self._http = httpx.Client(trust_env=False, base_url=server.url, timeout=60, headers=headers)
        self.cursor = cursor

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def read(self, wait_ms: int = 0) -> dict[str, Any]:
        """The next page."""
        query = {"cursor": self.cursor, "wait_ms": wait_ms, "max_rows": 10_000}
        answer = self._http.get(f"{ROOT}/experience", params=query)
        answer.raise_for_status()
        page: dict[str, Any] = msgpack_body.decode(answer.content)
        self.cursor = page["cursor"]
        return page


def _ratio(these: list[float], those: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(these, those, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.experience", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="in which both have a turn (default: %(default)s)")
    add("--seconds", type=float, default=3.0, help="of a turn (default: %(default)s)")
    add("--probes", type=int, default=50, help="of a reader that waits (default: %(default)s)")
    add("--exports", type=Path, help="where the policy lies, or is made (default: a temporary folder)")
    return command.parsed(parser, QUICK)


if __name__ == "__main__":
    sys.exit(main())
