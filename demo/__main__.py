"""`python -m demo`: an agent learns CartPole through the policy server, before one's eyes."""

import argparse
import os
import sys
from pathlib import Path

from app.testing import ServerFailed
from demo.interrupts import Interrupts
from demo.messages import POLICY, DemoError, Plan

# 8,192 transitions a round. In 20 runs the mean return passed 490 after 12 to 15 rounds, and the
# last three versions reached 498 to 500.
FULL = Plan(
    simulators=4,
    environments_per_simulator=8,
    steps_per_report=32,
    transitions_per_round=8192,
    rounds_at_least=26,
    rounds_at_most=40,
    enough_return=490.0,
    episodes_to_stop=50,
    evaluated_versions=3,
    episodes_per_evaluated_version=20,
    required_return=195.0,
    required_swaps=10,
)
QUICK = Plan(
    simulators=2,
    environments_per_simulator=8,
    steps_per_report=16,
    transitions_per_round=512,
    rounds_at_least=6,
    rounds_at_most=6,
    enough_return=float("inf"),
    episodes_to_stop=1,
    evaluated_versions=3,
    episodes_per_evaluated_version=4,
    required_return=None,
    required_swaps=4,
)


def main() -> int:
    """Runs the demo. 0: it did what it promises; 1: it did not; 128 + signal: stopped."""
    options = _options()
    interrupts = Interrupts()
    try:
        return _run(options, interrupts)
    except (DemoError, ServerFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped, and everything that it started", file=sys.stderr)
        return 128 + (interrupts.first or 0)


def _run(options: argparse.Namespace, interrupts: Interrupts) -> int:
    """The demo between its command line and its exit status."""
    with interrupts.deferred():  # imported here, since every simulator imports this file and needs none of it
        from demo.run import Options, run
        from demo.screen import open_screen
        from demo.statistics import Statistics

    plan = QUICK if options.quick else FULL
    runs_dir = options.runs_dir
    chosen = Options(runs_dir, options.seed, options.port, options.chart or runs_dir / "demo.png")
    statistics = Statistics()
    with open_screen(statistics, plan, plain=options.plain) as screen:
        result = run(plan, chosen, screen, statistics, interrupts)
    screen.conclude(result, plan)
    print(f"picture: {chosen.chart}, figures: {runs_dir / 'result.json'}")
    program = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable
    print(f"serve what it made: {program} -m app serve {POLICY}={runs_dir / POLICY}")
    return 0 if result.succeeded else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="made anew; gets everything that is written (default: %(default)s)",
    )
    parser.add_argument(
        "--chart",
        type=Path,
        metavar="PATH",
        help="the picture at the end (default: demo.png in the runs folder)",
    )
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--quick", action="store_true", help="a few swaps, too short to learn: for tests")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="no live screen, a line for each version; always so without a terminal",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
