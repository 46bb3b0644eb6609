"""What a shadow costs those who are answered: p99 at half of the maximum load, and answers a second at all of it.

One worker, a small policy, and a shadow that is asked every request. By turns on one machine, which should have nothing
else to do; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.harness import command
from bench.harness.command import progress
from bench.harness.figures import Found, report
from bench.harness.load import Answers, Generator, generator
from bench.harness.server import Server, serving
from bench.serving.exports import READY, SWAPPED, Exports

BODY = {"observation": [0.1, -0.2, 0.3, -0.4], "options": {"mode": "greedy"}}
CONNECTIONS = 32
QUICK = {"rounds": 1, "seconds": 0.3}


def main() -> int:
    """Measures and prints. 0: well; 1: nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.shadow", lambda: report("bench-shadow", options, _measured))


def _measured(options: argparse.Namespace, folder: Path) -> Iterator[Found]:
    exports = Exports(options.exports or folder / "exports", progress)
    exports.make([SWAPPED])
    served = exports.copied(SWAPPED, folder / SWAPPED)
    checkpoint = min((exports.folder / SWAPPED / READY).iterdir())
    shutil.copytree(checkpoint, served / "checkpoints" / checkpoint.name, dirs_exist_ok=True)
    with serving({SWAPPED: served}, folder / "log", ["--no-watch"]) as server:
        load = generator(folder, server.action, json.dumps(BODY).encode())
        yield from _by_turns(server, load, "export", options)  # the checkpoint, which is newer, serves


def _by_turns(server: Server, load: Generator, checkpoint: str, options: argparse.Namespace) -> Iterator[Found]:
    def run(rate: float = 0.0, share: float = 1.0) -> Answers:
        answers = load.run(server.port, options.seconds * share, CONNECTIONS, rate)
        if answers.failures:
            raise BenchError(f"{answers.failures} requests failed: {answers.statuses}")
        return answers

    run()  # warm
    most = run().rate
    p99: dict[bool, list[float]] = {False: [], True: []}
    rates: dict[bool, list[float]] = {False: [], True: []}
    rows: list[dict[str, Any]] = []
    for number in range(options.rounds):
        progress(f"round {number + 1} of {options.rounds}")
        for with_shadow in (False, True) if number % 2 == 0 else (True, False):
            _try(server, checkpoint if with_shadow else "")
            run(most / 2, 0.2)  # what was just loaded, and has not run yet
            p99[with_shadow].append(run(most / 2).p99_ms)
            if with_shadow:
                rows.append(_row(server))
                _try(server, "")  # counts anew
                _try(server, checkpoint)
            rates[with_shadow].append(run().rate)
            if with_shadow:
                rows.append(_row(server))
    yield Found("maximum load, answers/s", most)
    for name, samples, unit in (("at half of it: p99", p99, "ms"), ("at all of it: answers/s", rates, "")):
        for with_shadow in (False, True):
            which = "with a shadow" if with_shadow else "without"
            yield Found(f"{name} {which} {unit}".strip(), statistics.median(samples[with_shadow]))
        ratio = statistics.median(samples[True]) / statistics.median(samples[False])
        good = ratio <= 1.1 if unit else ratio >= 0.95
        yield Found("… by that without", ratio, "at most 1.1" if unit else "at least 0.95", good)
    for name, found in (("half", rows[::2]), ("all", rows[1::2])):
        seen = sum(row["compared"] + row["skipped"] for row in found)
        yield Found(f"share of the requests that were compared at {name} of it", _compared(found) / max(seen, 1))
        yield Found("… a second", _compared(found) / options.rounds / options.seconds)


def _compared(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["compared"] for row in rows))


def _try(server: Server, checkpoint: str) -> None:
    wish = {"shadow": {"checkpoint": checkpoint}} if checkpoint else {}
    server.call("PUT", f"/admin/policies/{SWAPPED}/traffic", json.dumps(wish).encode())


def _row(server: Server) -> dict[str, Any]:
    row: dict[str, Any] = server.call("GET", f"/admin/policies/{SWAPPED}/traffic")["shadow"]
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.shadow", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=12, help="in which both have a turn (default: %(default)s)")
    add("--seconds", type=float, default=3.0, help="of a turn (default: %(default)s)")
    add("--exports", type=Path, help="where the policies lie, or are made (default: a temporary folder)")
    return command.parsed(parser, QUICK)


if __name__ == "__main__":
    sys.exit(main())
