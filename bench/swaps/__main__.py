"""How soon published weights answer, and what swapping them does to the latency of requests.

For policies of three sizes: from the publication of a checkpoint to the first answer with it, by the watched folder, by
an admin's reload and by an upload. Then latency at half of the largest load, with a swap every two seconds and without,
by turns. The machine should have nothing else to do. Exits with 1 where a request failed or a swap was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.harness import command
from bench.harness.command import options_as_json, progress
from bench.harness.load import generator
from bench.harness.machine import Neighbours, machine, warning_before
from bench.swaps import report
from bench.swaps.run import ACTION, BODY, UNITS, Bench, Wanted
from bench.swaps.under_load import Plan

QUICK = {"sizes": ["small"], "load_sizes": ["small"], "swaps": 2, "rounds": 1, "phase_s": 1.0, "every_s": 0.5}
QUICK |= {"maximum_s": 0.5}


def main() -> int:
    """Measures and prints. 0: well; 1: failures, missed swaps, or nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.swaps", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    wanted = Wanted(
        timed=options.sizes if options.swaps else [],
        loaded=options.load_sizes if options.rounds else [],
        workers=options.workers,
        swaps=options.swaps,
        plan=Plan(options.rounds, options.phase_s, options.every_s, options.maximum_s, options.connections),
        server_options=options.server_options,
    )
    on = machine()
    if busy := warning_before(on):
        progress(busy)
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix="bench-swaps-", dir=options.folder) as folder:
        results = Bench(wanted, generator(Path(folder), ACTION, BODY), Path(folder), progress).run()
    on["others_cores"] = round(neighbours.cores(), 2)
    report.show(results, on)
    if options.json:
        figures = report.as_json(results, on, options_as_json(options))
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if results.failures or results.missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.swaps", description=__doc__)
    sizes: dict[str, Any] = {"nargs": "+", "choices": list(UNITS), "metavar": "SIZE"}
    add = parser.add_argument
    add("--sizes", default=list(UNITS), help="policies for the first answer: small, 5MB, 50MB (default: all)", **sizes)
    add("--load-sizes", default=["small", "50MB"], help="policies for the load (default: small 50MB)", **sizes)
    add(
        "--workers",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="passed to the server, each in turn (default: 1)",
    )
    add("--swaps", type=int, default=20, help="by each way; 0 leaves the first answers out (default: %(default)s)")
    add("--rounds", type=int, default=6, help="of two phases; 0 leaves the load out (default: %(default)s)")
    add("--phase-s", type=float, default=10.0, help="seconds of each phase (default: %(default)s)")
    add("--every-s", type=float, default=2.0, help="seconds from swap to swap under load (default: %(default)s)")
    add(
        "--maximum-s", type=float, default=5.0, help="seconds of the search for the largest load (default: %(default)s)"
    )
    add("--connections", type=int, default=32, help="of the load (default: %(default)s)")
    add("--folder", type=Path, help="where to write, some 2 GB (default: the system's temporary folder)")
    add("server_options", nargs="*", metavar="-- OPTION", help="for the server: -- --engine tensorflow")
    return command.parsed(parser, QUICK, "a short try of the small policy")


if __name__ == "__main__":
    sys.exit(main())
