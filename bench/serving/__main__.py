"""What an answer costs beside the HTTP around it, beside what people write, and with one or two processes.

Real servers on this machine, loaded by a compiled client: a bare echo, a naive server, and ours with each engine. All
servers of a scenario run at once and are measured by turns, in rounds. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import command
from bench.harness.command import options_as_json, progress
from bench.harness.load import compiled
from bench.harness.machine import Neighbours, machine, warning_before
from bench.serving import acceptance, chart, report
from bench.serving.before import source_of
from bench.serving.exports import Exports
from bench.serving.peers import environments
from bench.serving.peers.table import PEERS
from bench.serving.run import Bench, Plan
from bench.serving.scenarios import NAMES, SCENARIOS, START, stages


def main() -> int:
    """Measures and prints. 0: well; 1: failures, or nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.serving", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    peers = list(PEERS.values()) if options.peers else []
    wanted = stages(
        options.scenario, options.only, [peer.competitor for peer in peers], with_before=bool(options.before)
    )
    on = machine()
    if busy := warning_before(on):
        progress(busy)
    for peer in peers:
        if any(one.name == peer.name for stage in wanted for scenario in stage for one in scenario.competitors):
            environments.make(options.peers, peer, progress)
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name, _exports(options.exports, name) as exports:
        folder = Path(name)
        before = source_of(options.before, folder / "before") if options.before else None
        plan = Plan(options.rounds, options.seconds)
        bench = Bench(plan, exports, compiled(folder), folder, progress, options.peers, before)
        results = bench.run(wanted, with_starts=not options.only and START in (options.scenario or NAMES))
    results.machine = on | {"others_cores": round(neighbours.cores(), 2)}
    lines = acceptance.lines(results, [peer.name for peer in peers])
    report.show(results, lines)
    if options.json:
        figures = report.as_json(results, lines, options_as_json(options))
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.chart:
        chart.draw(results, options.chart)
    return 1 if results.failures else 0


@contextlib.contextmanager
def _exports(kept: Path | None, folder: str) -> Iterator[Exports]:
    where = kept or Path(folder, "exports")
    where.mkdir(parents=True, exist_ok=True)
    yield Exports(where.absolute(), progress)


def _options() -> argparse.Namespace:
    competitors = dict.fromkeys(one.name for scenario in SCENARIOS for one in scenario.competitors)
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    add = parser.add_argument
    add("--scenario", nargs="+", choices=NAMES, default=[], metavar="NAME", help=f"of {', '.join(NAMES)} (all)")
    add("--only", nargs="+", default=[], metavar="COMPETITOR", help=f"of {', '.join(competitors)} (all)")
    add("--rounds", type=int, default=5, help="in which everybody has a turn (%(default)s)")
    add("--seconds", type=float, default=2.0, help="of a turn (%(default)s)")
    add("--exports", type=Path, metavar="FOLDER", help="where policies are kept from run to run, some 50 MB")
    add("--peers", type=Path, metavar="FOLDER", help=f"with {', '.join(PEERS)}, whose environments are made there")
    add("--before", metavar="REVISION", help="our servers of this commit take part, too")
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    add("--chart", type=Path, metavar="FILE", help="draw a picture: .png or .svg")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
