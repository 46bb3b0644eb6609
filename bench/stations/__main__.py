"""What one unbatched request costs, in µs of a core by station: receive, head, decode, check, queue, …, send.

A worker runs in this process, on the server's event loop, and answers a client in the same thread over a real
connection; the client's own time is left out. The functions of each station are wrapped, and what the wrappers cost is
taken off. The whole is measured without them, too. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.harness import command
from bench.harness.command import progress
from bench.harness.machine import Neighbours, machine, warning_before
from bench.serving.exports import RECURRENT, SMALL, Exports
from bench.stations import report
from bench.stations.measure import measure

QUICK = {"rounds": 1, "requests": 50}


def main() -> int:
    """Measures and prints. 0: well; 1: nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.stations", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if busy := warning_before(on := machine()):
        progress(busy)
    with tempfile.TemporaryDirectory(prefix="bench-stations-") as folder:
        exports = Exports((options.exports or Path(folder)).absolute(), progress)
        exports.folder.mkdir(parents=True, exist_ok=True)
        exports.make([SMALL, RECURRENT])
        states = {name: exports.compiled(name) for name in (SMALL, RECURRENT)}
        progress(f"{options.rounds} rounds")
        neighbours = Neighbours()
        found = uvloop.run(measure(states, options.rounds, options.requests))
        on["others_cores"] = round(neighbours.cores(), 2)
    report.show(found, on)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(found, on), indent=1, ensure_ascii=False) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stations", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="samples of each kind (default: %(default)s)")
    add("--requests", type=int, default=4000, help="of a sample (default: %(default)s)")
    add("--exports", type=Path, metavar="FOLDER", help="where the policies lie, or are made (default: a temporary one)")
    return command.parsed(parser, QUICK)


if __name__ == "__main__":
    sys.exit(main())
