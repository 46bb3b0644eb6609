# ruff: noqa: T201
"""What the commands of all benches share: lines about what is being done, being stopped, options among the figures."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from app.testing import ServerFailed
from bench import BenchError


def run(name: str, measure: Callable[[], int]) -> int:
    """The exit status of a bench: what `measure` returns; 1: nothing could be measured; 130: it was stopped."""
    stop_on_signals()
    try:
        return measure()
    except (BenchError, ServerFailed) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped, and everything that it started", file=sys.stderr)
        return 130


def parsed(
    parser: argparse.ArgumentParser, quick: Mapping[str, Any], short_try: str = "a short try"
) -> argparse.Namespace:
    """What the command line says, with the options of every bench: `--json`, and `--quick` for these defaults."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--quick", action="store_true", help=f"{short_try}; its figures say nothing")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def options_as_json(options: argparse.Namespace) -> dict[str, Any]:
    """By their names, as a JSON file can hold them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def progress(what: str) -> None:
    """A line for whoever waits, beside the figures."""
    print(what, file=sys.stderr, flush=True)


def stop_on_signals() -> None:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt, so that what was started is ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(*_: object) -> NoReturn:
    """Once: what is cleaned up then is not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
