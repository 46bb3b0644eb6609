"""How many environments one worker steps at 60 and at 30 frames a second, while weights are swapped every two seconds.

Simulators with a session each, one environment or a vector of 16, send their frames when they are due, whether or not
those before were answered. Finds the largest number of simulators for which 99.9 % of the answers take no longer than a
frame. The machine should have nothing else to do; the simulators run on it as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.frames import report
from bench.frames.run import Bench, Case, Found, Plan
from bench.frames.simulators import SOURCE
from bench.harness import command
from bench.harness.command import options_as_json, progress
from bench.harness.load import compiled
from bench.harness.machine import measuring
from bench.serving.exports import SWAPPED, Exports

QUICK = {"hz": [60.0], "rows": [1, 2], "probe_s": 0.4, "final_s": 1.0, "every_s": 0.5, "first": 2, "most": 3}


def main() -> int:
    """Measures and prints. 0: well; 1: nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.frames", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    with measuring("bench-frames") as (on, folder):
        found = _found(options, folder)
    report.show(found, on)
    if options.json:
        figures = report.as_json(found, on, options_as_json(options))
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _found(options: argparse.Namespace, folder: Path) -> list[Found]:
    """What one rate has found is where the next one begins."""
    exports = Exports((options.exports or folder).absolute(), progress)
    exports.folder.mkdir(parents=True, exist_ok=True)
    exports.make([SWAPPED])
    plan = Plan(options.probe_s, options.final_s, options.every_s, options.first, options.most)
    bench = Bench(plan, exports, compiled(folder, SOURCE), folder, progress)
    found: list[Found] = []
    for rows in options.rows:
        frames_per_s = 0.0
        for hz in options.hz:
            found.append(bench.measure(Case(hz, rows), round(frames_per_s / hz) or plan.first))
            frames_per_s = found[-1].simulators * hz
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.frames", description=__doc__)
    add = parser.add_argument
    add("--hz", type=float, nargs="+", default=[60.0, 30.0], help="frames a second (default: 60 30)")
    add("--rows", type=int, nargs="+", default=[1, 16], help="environments of a simulator (default: 1 16)")
    add("--probe-s", type=float, default=4.0, help="seconds of a try (default: %(default)s)")
    add("--final-s", type=float, default=10.0, help="seconds of the last try (default: %(default)s)")
    add("--every-s", type=float, default=2.0, help="seconds from swap to swap (default: %(default)s)")
    add("--first", type=int, default=150, help="how many simulators are tried first (default: %(default)s)")
    add("--most", type=int, default=4000, help="how many are tried at all (default: %(default)s)")
    add("--exports", type=Path, metavar="FOLDER", help="where the policy lies, or is made (default: a temporary one)")
    return command.parsed(parser, QUICK)


if __name__ == "__main__":
    sys.exit(main())
