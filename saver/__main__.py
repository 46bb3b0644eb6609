"""The command line: `python -m saver verify FOLDER`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saver.hush import hushed

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
_WIDTH = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 if something failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m saver", description=__doc__)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # paths and names may hold what a terminal cannot show
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="does an export answer as it should")
    verify.add_argument("folder", metavar="FOLDER", type=Path, help="what PolicySaver.save wrote")
    return _verify(parser.parse_args(arguments).folder)


def _verify(folder: Path) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with hushed():
        from saver.verify import verify_folder

        findings = verify_folder(folder)
    table = Table("looked at", "result", "", title=escape(str(folder)), title_justify="left")
    for finding in findings:
        table.add_row(escape(finding.what), f"[{_STYLES[finding.result]}]{finding.result}[/]", escape(finding.detail))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=_WIDTH)).print(table)
    failed = sum(finding.result == "failed" for finding in findings)
    print(f"{failed} of {len(findings)} failed" if failed else f"all well: {len(findings)} looked at")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
